"""What a finished store needs later: verified, compared, merged, cleaned up, described."""
