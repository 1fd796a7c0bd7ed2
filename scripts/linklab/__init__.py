"""What the scripts share: radio (physics), data (contracts), model (torch), score (judging), files and cli."""
