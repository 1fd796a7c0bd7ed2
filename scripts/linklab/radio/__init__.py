"""Radio room: channels, propagation, PHY, link budget and scenarios of outdoor 5 GHz links (numpy only)."""
