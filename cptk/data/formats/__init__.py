"""Files of pairs as other tools and publishers have them: one reader a format, `Pairs` out."""
