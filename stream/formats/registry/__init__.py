"""Messages whose schema a registry knows: the client, Avro, Protobuf and JSON Schema."""
