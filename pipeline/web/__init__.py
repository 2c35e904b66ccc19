"""The web page: routes over the same API as the command line. One handler answers in HTML, JSON and CSV.

It loads no torch, has no build step and sends no request to another machine. Reading order: server, app, security,
responses, then the modules of pages: runs, gallery, image, thumbnails, audit, compare, schedules. `redaction` hides
paths, `background` runs occasions of schedules, `sentences` puts figures into words.
"""
