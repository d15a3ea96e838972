"""From the records of a sweep to the next runs worth their cost: the planner behind `loopsweep refine`."""
