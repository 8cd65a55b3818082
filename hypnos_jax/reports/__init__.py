"""Pages and figures for people: the report of a main job, figures of results."""
