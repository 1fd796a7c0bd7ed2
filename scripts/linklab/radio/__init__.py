"""The physics of a link: channels, propagation, PHY, link budget and scenarios of outdoor 5 GHz links (numpy only)."""
