// Package cookie reads and writes the cookies of sticky sessions: Set-Cookie lines as
// browsers read them, the Cookie header of a request, and the codecs that turn a
// target's ID into a cookie value and back.
//
// It decides nothing: which cookie is set, when, and with which attributes is the
// business of the policies in package stickiness. It opens no connection, starts no
// goroutine and keeps no state besides keys and tables.
//
// # Security
//
// Every byte of a cookie comes from a client. Parsing is total: it returns a cookie or
// an error, never panics, costs time linear in the input, and refuses what exceeds the
// limits of RFC 6265bis. [Sealed], the codec to use, encrypts and authenticates; the
// codecs that exist for compatibility with other balancers and can be read or guessed
// by clients have Insecure in their names. No error text contains a cookie's value.
package cookie
