"""The live page over the files on disk: the report's page, fed as they change."""
