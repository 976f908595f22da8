"""Where pictures come from: folders, tables, archives. Each source says what is there in small records; no picture is held."""
