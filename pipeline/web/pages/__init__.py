"""One module for each page: routes, and the data of their templates."""
