package redisstore

// Encode and Decode are for tests of the format.
var (
	Encode = encode
	Decode = decode
)
