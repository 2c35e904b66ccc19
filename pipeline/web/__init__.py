"""The page people look at: routes over the same API as the command line, HTML and JSON and CSV from one handler.

No torch, no build step, no request to another machine. Read in this order: serving, app, safety, answers; the pages
runs, gallery, images, drawing, audits, comparing, schedules. `material` reads arrays, `places` hides paths, `turns`
works in the background; `words` turn figures into sentences.
"""
