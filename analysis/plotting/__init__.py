"""Shared by all figures: style, rules, panels, marks of unfinished points, and the script around a drawing."""
