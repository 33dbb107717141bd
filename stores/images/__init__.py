"""Images as arrays and as bytes: JPEG and PNG, and which part of an image fills the rest."""
