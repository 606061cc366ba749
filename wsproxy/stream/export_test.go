package stream

// ReadHello opens the reading of a ClientHello to the tests.
var ReadHello = readHello
