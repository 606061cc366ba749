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

// maxHello bounds the bytes that are read to find a ClientHello, as nginx and HAProxy do with their buffers. Usual ones
// have 200 bytes to 2 KiB.
const maxHello = 16 << 10

// errHello ends crypto/tls's handshake when the ClientHello is known.
var errHello = errors.New("stream: the hello is read")

// readHello reads what a client begins with until crypto/tls, which has to parse it anyway and does so with care, has
// found its ClientHello. It fills c and returns what was read: the beginning of what goes to the target. Nothing is
// written to conn. When ctx ends first conn is closed.
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

// parseHello fills c with what the ClientHello that conn begins with says, and reports whether it has found one.
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

// canonicalName is a server name in lower case, without the dot of the root. It is empty where that leaves no name.
func canonicalName(name string) string {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if strings.HasSuffix(name, ".") {
		return ""
	}
	return name
}

// A recorder keeps what is read and drops what is written: crypto/tls's alerts.
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

// A replay reads a ClientHello once more.
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

// hideDottedName returns the records of a ClientHello that crypto/tls takes in place of one that it refuses, because its
// server name ends in a dot (RFC 6066 section 3 has none there, and some clients send one), and that name. In the copy
// the name is of a type that nobody knows. It returns nil when that is not what is wrong.
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

// handshakeMessage is the first one in the records of read, in a copy; nil when it is not complete.
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

// dottedName finds the server name of a ClientHello that ends in a dot, and where its entry begins; -1 when there is
// none (RFC 8446 section 4.1.2, RFC 6066 section 3).
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

// Fields reads numbers and skips vectors. At the end of what there is it reads zeros.
type fields struct {
	b  []byte
	at int
}

func (f *fields) has(n int) bool { return len(f.b)-f.at >= n }

// number reads one of size octets.
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

// skip passes a vector whose length has size octets.
func (f *fields) skip(size int) {
	if n := f.number(size); f.has(n) {
		f.at += n
	} else {
		f.at = len(f.b)
	}
}

// skipLength passes a vector's length, of size octets.
func (f *fields) skipLength(size int) { f.number(size) }
