"""`make demo`: the main job of Mica, shown on one machine with the commands that a user would type.

Built on `mica_box` (the cluster) and the chart; also what the end-to-end tests install Mica with. Not a benchmark and not a test.
"""
