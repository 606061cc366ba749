// Package wskey makes and answers the keys of WebSocket handshakes. It opens no connection and
// reads no header: it is for programs that write a handshake themselves, as the check
// health.WebSocket and package wsproxy do.
package wskey

import (
	"crypto/fips140"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
)

// New returns a random Sec-WebSocket-Key for a client's handshake (RFC 6455 section 4.1).
func New() string {
	var nonce [16]byte
	rand.Read(nonce[:])
	return base64.StdEncoding.EncodeToString(nonce[:])
}

// Accept returns the Sec-WebSocket-Accept with which a server answers a Sec-WebSocket-Key (RFC 6455
// section 4.2.2). It does not check the key. It works under GODEBUG=fips140=only as well, because
// its SHA-1 protects nothing.
func Accept(key string) string {
	var sum [sha1.Size]byte
	fips140.WithoutEnforcement(func() { sum = sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) })
	return base64.StdEncoding.EncodeToString(sum[:])
}
