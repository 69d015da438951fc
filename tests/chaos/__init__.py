"""Real studies under kill -9: of controllers, trainers and servers, at random moments; see `chaos.rounds`."""
