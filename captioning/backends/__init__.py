"""What answers: models here, engines, servers, and what curation measured."""
