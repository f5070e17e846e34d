"""A merged model in the formats that servers run. Each export is held to the merged model's own answers."""
