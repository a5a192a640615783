"""From trained peers to what is shipped: SavedModels and TFLite files, each proven and measured."""
