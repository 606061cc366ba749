package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
)

// maxHello bounds the bytes that are read to find a ClientHello. nginx and HAProxy bound them by
// their buffers. Usual ClientHellos have 200 bytes to 2 KiB.
const maxHello = 16 << 10

// errHello ends the handshake of crypto/tls once the ClientHello is known.
var errHello = errors.New("stream: the hello is read")

// readHello reads from a client until crypto/tls has found its ClientHello, and fills c. It returns
// the bytes that were read, which go to the target first. It writes nothing to conn. If ctx ends
// first, conn is closed.
func readHello(ctx context.Context, conn net.Conn, c *Client) ([]byte, error) {
	r := recorder{Conn: conn}
	found, err := parseHello(ctx, &r, c)
	if !found && ctx.Err() == nil {
		if hello, name := hideDottedName(r.read); hello != nil {
			if found, _ = parseHello(ctx, &replay{conn, hello}, c); found {
				c.ServerName = name
			}
		}
	}
	if found && ctx.Err() == nil {
		return r.read, nil
	}
	return nil, err
}

// parseHello fills c from the ClientHello that conn begins with. It reports whether there is one.
func parseHello(ctx context.Context, conn net.Conn, c *Client) (found bool, err error) {
	err = tls.Server(conn, &tls.Config{
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			found = true
			c.ServerName, c.Protocols = canonicalName(hello.ServerName), slices.Clone(hello.SupportedProtos)
			return nil, errHello
		},
	}).HandshakeContext(ctx)
	return found, err
}

// canonicalName returns a server name in lower case, without a dot at its end. It returns "" for a
// name with more than one such dot.
func canonicalName(name string) string {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if strings.HasSuffix(name, ".") {
		return ""
	}
	return name
}

// A recorder keeps what is read, and drops what is written, such as the alerts of crypto/tls.
type recorder struct {
	net.Conn
	read []byte
}

// Read implements io.Reader.
func (r *recorder) Read(p []byte) (int, error) {
	p = p[:min(len(p), maxHello-len(r.read))]
	if len(p) == 0 {
		return 0, errHelloLength
	}
	n, err := r.Conn.Read(p)
	r.read = append(r.read, p[:n]...)
	return n, err
}

// Write implements io.Writer.
func (r *recorder) Write(p []byte) (int, error) { return len(p), nil }

// A replay reads a ClientHello again.
type replay struct {
	net.Conn
	hello []byte
}

// Read implements io.Reader.
func (r *replay) Read(p []byte) (int, error) {
	if len(r.hello) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.hello)
	r.hello = r.hello[n:]
	return n, nil
}

// Write implements io.Writer.
func (r *replay) Write(p []byte) (int, error) { return len(p), nil }

// hideDottedName is for a ClientHello that crypto/tls refuses because its server name ends in a
// dot: RFC 6066 section 3 does not allow it, and some clients send it. It returns that name, and
// records that crypto/tls accepts: a copy in which the name has an unknown type. If something else
// is wrong, it returns nil.
func hideDottedName(read []byte) (records []byte, name string) {
	message := handshakeMessage(read)
	at, host := dottedName(message)
	if at < 0 {
		return nil, ""
	}
	message[at] = 0xff // name_type
	for chunk := range slices.Chunk(message, 1<<14) {
		records = append(records, typeHandshake, 3, 1, byte(len(chunk)>>8), byte(len(chunk)))
		records = append(records, chunk...)
	}
	return records, canonicalName(host)
}

const typeHandshake = 22 // of a TLS record (RFC 8446 section 5.1)

// handshakeMessage returns a copy of the first handshake message in the records of read. It returns
// nil if the message is incomplete.
func handshakeMessage(read []byte) []byte {
	var message []byte
	for rest := read; len(rest) >= 5 && rest[0] == typeHandshake; {
		n := int(rest[3])<<8 | int(rest[4])
		if len(rest) < 5+n {
			break
		}
		message, rest = append(message, rest[5:5+n]...), rest[5+n:]
		if len(message) < 4 {
			continue
		}
		if n := 4 + int(message[1])<<16 + int(message[2])<<8 + int(message[3]); len(message) >= n {
			return message[:n]
		}
	}
	return nil
}

// dottedName finds the server name of a ClientHello if it ends in a dot (RFC 8446 section 4.1.2,
// RFC 6066 section 3). at is the offset of its entry, or -1 if there is none.
func dottedName(message []byte) (at int, name string) {
	const head = 4 + 2 + 32 // type and length, legacy_version, random
	if len(message) < head || message[0] != 1 {
		return -1, ""
	}
	p := fields{message, head}
	p.skip(1) // legacy_session_id
	p.skip(2) // cipher_suites
	p.skip(1) // legacy_compression_methods
	for p.skipLength(2); p.has(4); {
		kind := p.number(2)
		if kind != 0 { // server_name
			p.skip(2)
			continue
		}
		p.skipLength(2) // of the extension
		p.skipLength(2) // of the list
		at = p.at
		if nameType := p.number(1); nameType != 0 {
			return -1, ""
		}
		n := p.number(2)
		if !p.has(n) || n == 0 || message[p.at+n-1] != '.' {
			return -1, ""
		}
		return at, string(message[p.at : p.at+n])
	}
	return -1, ""
}

// fields reads numbers and skips vectors. At the end of the bytes it reads zeros.
type fields struct {
	b  []byte
	at int
}

func (f *fields) has(n int) bool { return len(f.b)-f.at >= n }

// number reads a number of size octets.
func (f *fields) number(size int) int {
	if !f.has(size) {
		f.at = len(f.b)
		return 0
	}
	n := 0
	for _, c := range f.b[f.at : f.at+size] {
		n = n<<8 | int(c)
	}
	f.at += size
	return n
}

// skip skips a vector whose length has size octets.
func (f *fields) skip(size int) {
	if n := f.number(size); f.has(n) {
		f.at += n
	} else {
		f.at = len(f.b)
	}
}

// skipLength skips the length of a vector, which has size octets.
func (f *fields) skipLength(size int) { f.number(size) }
