"""What a model has to beat: simple rules, link rules, boosted trees."""
