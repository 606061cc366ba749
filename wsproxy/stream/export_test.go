package stream

// ReadHello exports readHello for the tests.
var ReadHello = readHello
