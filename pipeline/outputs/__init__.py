"""Everything that leaves attribatch: pictures, charts, reports, exports."""
