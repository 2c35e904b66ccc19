"""The page people look at: routes over the same API as the command line, HTML and JSON and CSV from one handler.

No torch, no build step, no request to another machine. Read in this order: app, safety, answers, then the pages:
runs, gallery, images, pictures, audits, comparing, schedules. `words` and `plots` turn figures into sentences and SVG.
"""
