package proxyproto

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	codec "github.com/pires/go-proxyproto"
)

// Why a header is refused. Match with errors.Is.
var (
	// ErrNoHeader reports that the first bytes are not those of a header.
	ErrNoHeader = errors.New("proxyproto: no PROXY header")
	// ErrMalformed reports a header that breaks the rules of its version.
	ErrMalformed = errors.New("proxyproto: malformed PROXY header")
	// ErrTooLong reports a header over the size that is read: 107 bytes, or 16 and 4096 in version 2.
	ErrTooLong = errors.New("proxyproto: PROXY header too long")
	// ErrChecksum reports a header whose CRC32C is not that of its bytes.
	ErrChecksum = errors.New("proxyproto: wrong CRC32C in PROXY header")
	// ErrTruncated reports that the connection ended, or its time was up, within a header or before one.
	ErrTruncated = errors.New("proxyproto: incomplete PROXY header")
)

const (
	signature1  = "PROXY "
	signature2  = "\r\n\r\n\x00\r\nQUIT\n"
	maxVersion1 = 107  // with its CRLF
	fixed       = 16   // what precedes the addresses of version 2
	maxVersion2 = 4096 // after that; the codec reads no more either
	maxUnixName = 108
	maxUniqueID = 128
)

// A Header is what one PROXY header says. The zero value is one of version 2 that says that the client is unknown.
type Header struct {
	// Version is 1 or 2. Zero means 2 when the header is written. Version 1 has addresses and nothing else: the other
	// fields are not written then.
	Version int

	// Local says that the proxy speaks for itself, as a health check does (LOCAL). Nothing else is read or written
	// then. Version 1 has no word for it and writes UNKNOWN.
	Local bool

	// Source is the client, Destination what it connected to: both are a *net.TCPAddr, or both a *net.UnixAddr. Nil,
	// both of them, means that the proxy does not know. IPv4 addresses that are mapped to IPv6 come as IPv4, and are
	// written so unless the other one is IPv6. A Unix name that is no absolute path comes as "@", since nobody
	// here could use it and it may look like an IP address. Those of datagrams come as nil. Version 1 has no Unix
	// names and writes UNKNOWN.
	Source, Destination net.Addr

	// ALPN is the application protocol that was negotiated with the client, such as "h2".
	ALPN string

	// Authority is the host name that the client asked for, such as the TLS server name.
	Authority string

	// UniqueID names the connection, in at most 128 bytes.
	UniqueID []byte

	// NetNS is the name of the network namespace, as it was sent.
	NetNS string

	// TLS describes the client's TLS connection. Nil means that it had none, or that nothing is said.
	TLS *TLS

	// Checksum says that the header has a CRC32C, which was right, or shall get one.
	Checksum bool

	// Other are the fields that have no name here, in their order. Padding (NOOP) is not among them.
	Other []TLV
}

// Parse reads the header that b begins with, and returns its length. While b may be the beginning of one the error
// is io.ErrUnexpectedEOF; any other is one of this package, and what follows cannot make it right.
func Parse(b []byte) (*Header, int, error) {
	n, err := headerLength(b)
	if err != nil {
		return nil, 0, err
	}
	b = b[:n]
	var h *Header
	if b[0] == signature1[0] {
		h, err = parse1(b)
	} else {
		h, err = parse2(b)
	}
	if err != nil {
		return nil, 0, err
	}
	return h, n, nil
}

// headerLength finds the end of the header that b begins with. It looks at no more than that, and b has it all.
func headerLength(b []byte) (int, error) {
	if begins(b, signature1) {
		end := bytes.IndexByte(b[:min(len(b), maxVersion1)], '\n')
		switch {
		case end >= 0:
			return end + 1, nil
		case len(b) >= maxVersion1:
			return 0, fmt.Errorf("%w: no line end in %d bytes", ErrTooLong, maxVersion1)
		default:
			return 0, io.ErrUnexpectedEOF
		}
	}
	if !begins(b, signature2) {
		return 0, ErrNoHeader
	}
	if len(b) > len(signature2) && b[12]>>4 != 2 {
		return 0, fmt.Errorf("%w: version %d", ErrMalformed, b[12]>>4)
	}
	if len(b) < fixed {
		return 0, io.ErrUnexpectedEOF
	}
	rest := int(binary.BigEndian.Uint16(b[14:]))
	if rest > maxVersion2 {
		return 0, fmt.Errorf("%w: %d bytes after the first %d", ErrTooLong, rest, fixed)
	}
	if len(b) < fixed+rest {
		return 0, io.ErrUnexpectedEOF
	}
	return fixed + rest, nil
}

// begins reports whether b begins with the signature, as far as it goes.
func begins(b []byte, signature string) bool {
	n := min(len(b), len(signature))
	return string(b[:n]) == signature[:n]
}

// decode has the codec read b, which is one complete header. It takes a header for incomplete that is not in its
// reader's buffer at once, and knows the end of one by itself: both are the same here.
func decode(b []byte) (*codec.Header, error) {
	r := bufio.NewReaderSize(bytes.NewReader(b), len(b))
	h, err := codec.Read(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if _, err := r.ReadByte(); err != io.EOF {
		return nil, fmt.Errorf("%w: bytes after its end", ErrMalformed)
	}
	return h, nil
}

func parse1(b []byte) (*Header, error) {
	raw, err := decode(b)
	if err != nil {
		return nil, err
	}
	h := &Header{Version: 1}
	h.setAddrs(raw)
	return h, nil
}

func parse2(b []byte) (*Header, error) {
	if b[12]&0xf == 0 { // LOCAL: section 2.2 has the rest discarded, whatever it is
		return &Header{Version: 2, Local: true}, nil
	}
	readable := b
	if b[13] == 0 { // the codec refuses UNSPEC, which receivers may accept, unless it is LOCAL
		readable = bytes.Clone(b)
		readable[12] &= 0xf0
	}
	raw, err := decode(readable)
	if err != nil {
		return nil, err
	}
	h := &Header{Version: 2}
	h.setAddrs(raw)
	if err := h.parseFields(b, fixed+addressLength(raw.TransportProtocol)); err != nil {
		return nil, err
	}
	return h, nil
}

// addressLength is that of version 2, for a family that the codec has accepted.
func addressLength(family codec.AddressFamilyAndProtocol) int {
	switch {
	case family.IsIPv4():
		return 12
	case family.IsIPv6():
		return 36
	case family.IsUnix():
		return 2 * maxUnixName
	default:
		return 0
	}
}

func (h *Header) setAddrs(raw *codec.Header) {
	if source, destination, ok := raw.TCPAddrs(); ok {
		h.Source, h.Destination = unmapped(source), unmapped(destination)
	} else if source, destination, ok := raw.UnixAddrs(); ok && raw.TransportProtocol.IsStream() {
		h.Source, h.Destination = absolute(source), absolute(destination)
	}
}

func unmapped(a *net.TCPAddr) *net.TCPAddr {
	if ip := a.IP.To4(); ip != nil {
		return &net.TCPAddr{IP: ip, Port: a.Port}
	}
	return &net.TCPAddr{IP: a.IP, Port: a.Port}
}

func absolute(a *net.UnixAddr) *net.UnixAddr {
	if strings.HasPrefix(a.Name, "/") {
		return a
	}
	return &net.UnixAddr{Net: a.Net, Name: "@"}
}

// WriteTo implements io.WriterTo with one Write. A header that cannot be written is an error before anything is.
func (h *Header) WriteTo(w io.Writer) (int64, error) {
	b, err := h.AppendBinary(nil)
	if err != nil {
		return 0, err
	}
	n, err := w.Write(b)
	return int64(n), err
}

// AppendBinary implements encoding.BinaryAppender: it adds the bytes of the header to b.
func (h *Header) AppendBinary(b []byte) ([]byte, error) {
	raw, err := h.raw()
	if err != nil {
		return b, err
	}
	fields, err := h.fields()
	if err != nil {
		return b, err
	}
	if err := raw.SetTLVs(fields); err != nil {
		return b, fmt.Errorf("proxyproto: write a PROXY header: %w", err)
	}
	out, err := raw.Format()
	if err != nil {
		return b, fmt.Errorf("proxyproto: write a PROXY header: %w", err)
	}
	if h.Checksum && len(fields) > 0 {
		sum := out[fixed+addressLength(raw.TransportProtocol)+fieldHead:] // it is the first field
		binary.BigEndian.PutUint32(sum, checksum(out))
	}
	return append(b, out...), nil
}

// raw is the header as the codec has it, without the fields.
func (h *Header) raw() (*codec.Header, error) {
	if h.Version < 0 || h.Version > 2 {
		return nil, fmt.Errorf("proxyproto: PROXY header of version %d", h.Version)
	}
	version := byte(h.Version)
	if version == 0 {
		version = 2
	}
	source, destination := h.Source, h.Destination
	if h.Local {
		return &codec.Header{Version: version, Command: codec.LOCAL}, nil
	}
	if source == nil && destination == nil {
		return &codec.Header{Version: version, Command: codec.PROXY}, nil
	}
	if a, ok := source.(*net.UnixAddr); ok {
		source = named(a)
	}
	if a, ok := destination.(*net.UnixAddr); ok {
		destination = named(a)
	}
	raw := codec.HeaderProxyFromAddrs(version, source, destination)
	if !raw.TransportProtocol.IsStream() || tooLong(source) || tooLong(destination) {
		return nil, fmt.Errorf("proxyproto: a PROXY header cannot tell the addresses %v and %v", h.Source, h.Destination)
	}
	return raw, nil
}

// named is a Unix address as the header has it: with a path, or without a name.
func named(a *net.UnixAddr) *net.UnixAddr {
	if strings.HasPrefix(a.Name, "/") {
		return &net.UnixAddr{Net: "unix", Name: a.Name}
	}
	return &net.UnixAddr{Net: "unix"}
}

func tooLong(a net.Addr) bool {
	unix, ok := a.(*net.UnixAddr)
	return ok && len(unix.Name) > maxUnixName
}
