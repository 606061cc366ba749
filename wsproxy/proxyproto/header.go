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

// Reasons why a header is refused. Match with errors.Is.
var (
	// ErrNoHeader reports that the first bytes are not a header.
	ErrNoHeader = errors.New("proxyproto: no PROXY header")
	// ErrMalformed reports a header that breaks the rules of its version.
	ErrMalformed = errors.New("proxyproto: malformed PROXY header")
	// ErrTooLong reports a header that is too long: over 107 bytes in version 1, over 16 + 4096
	// bytes in version 2.
	ErrTooLong = errors.New("proxyproto: PROXY header too long")
	// ErrChecksum reports a header whose CRC32C does not match its bytes.
	ErrChecksum = errors.New("proxyproto: wrong CRC32C in PROXY header")
	// ErrTruncated reports that the connection ended, or the time was over, before the end of the
	// header.
	ErrTruncated = errors.New("proxyproto: incomplete PROXY header")
)

const (
	signature1  = "PROXY "
	signature2  = "\r\n\r\n\x00\r\nQUIT\n"
	maxVersion1 = 107  // including CRLF
	fixed       = 16   // bytes before the addresses of version 2
	maxVersion2 = 4096 // bytes after that; the codec has the same limit
	maxUnixName = 108
	maxUniqueID = 128
)

// A Header is the contents of a PROXY header. The zero value is a header of version 2 for an
// unknown client.
type Header struct {
	// Version is 1 or 2. Zero means 2 when the header is written. Version 1 has addresses only: the
	// other fields are not written.
	Version int

	// Local says that the proxy speaks for itself, as a health check does (LOCAL). Nothing else is
	// read or written then. Version 1 has no LOCAL; UNKNOWN is written.
	Local bool

	// Source is the client, Destination the address that it connected to. Both are a *net.TCPAddr,
	// or both a *net.UnixAddr. If both are nil, the proxy does not know them. IPv4 addresses that
	// are mapped to IPv6 are read as IPv4, and written as IPv4 unless the other address is IPv6. A
	// Unix name that is not an absolute path is read as "@": it is of no use here, and may look
	// like an IP address. Addresses of datagrams are read as nil. Version 1 has no Unix names;
	// UNKNOWN is written.
	Source, Destination net.Addr

	// ALPN is the application protocol that was negotiated with the client, such as "h2".
	ALPN string

	// Authority is the host name that the client asked for, such as the TLS server name.
	Authority string

	// UniqueID names the connection, in at most 128 bytes.
	UniqueID []byte

	// NetNS is the name of the network namespace, as it was sent.
	NetNS string

	// TLS describes the client's TLS connection. Nil means that it has none, or that the header
	// does not say.
	TLS *TLS

	// Checksum says that the header had a valid CRC32C, or that one is to be written.
	Checksum bool

	// Other has the fields without a name here, in their order. Padding (NOOP) is left out.
	Other []TLV
}

// Parse reads the header at the beginning of b and returns its length. If b may be an incomplete
// header, the error is io.ErrUnexpectedEOF. After any other error, more bytes would not help; it is
// one of this package's errors.
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

// headerLength returns the length of the header at the beginning of b. It reads no byte beyond the
// header. The header is complete.
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

// begins reports whether b begins with the signature, or with the part of it that fits into b.
func begins(b []byte, signature string) bool {
	n := min(len(b), len(signature))
	return string(b[:n]) == signature[:n]
}

// decode decodes b, which is one complete header, with the codec. The codec reports a header as
// incomplete if its reader has not buffered all of it, and finds the end of a header itself. So
// here its reader has exactly one header.
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
	if b[12]&0xf == 0 { // LOCAL: section 2.2 says to discard the rest, whatever it is
		return &Header{Version: 2, Local: true}, nil
	}
	readable := b
	if b[13] == 0 { // the codec refuses UNSPEC without LOCAL, which receivers may accept
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

// addressLength returns the length of the addresses of version 2, for a family that the codec
// accepts.
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

// WriteTo implements io.WriterTo with one Write. If the header cannot be written, WriteTo returns
// an error and writes nothing.
func (h *Header) WriteTo(w io.Writer) (int64, error) {
	b, err := h.AppendBinary(nil)
	if err != nil {
		return 0, err
	}
	n, err := w.Write(b)
	return int64(n), err
}

// AppendBinary implements encoding.BinaryAppender: it appends the bytes of the header to b.
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
		sum := out[fixed+addressLength(raw.TransportProtocol)+fieldHead:] // the checksum is the first field
		binary.BigEndian.PutUint32(sum, checksum(out))
	}
	return append(b, out...), nil
}

// raw returns the header for the codec, without the fields.
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

// named returns a Unix address for a header: with a path, or without a name.
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
