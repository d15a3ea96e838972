"""What figures share: style, panels, marks of unfinished points, and the script around a drawing."""
