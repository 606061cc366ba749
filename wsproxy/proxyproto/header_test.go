package proxyproto_test

import (
	"bytes"
	"encoding/hex"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

func tcp(addr string) *net.TCPAddr {
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		panic(err)
	}
	if ip := a.IP.To4(); ip != nil {
		a.IP = ip
	}
	return a
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

const sig = "0d0a0d0a000d0a515549540a"

// worked has headers with known bytes. Unless they say otherwise, they are for 192.168.0.1:56324
// and 192.168.0.11:443.
var worked = map[string]struct {
	bytes  []byte
	header proxyproto.Header
}{
	"v1": {
		[]byte("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"),
		between(proxyproto.Header{Version: 1}),
	},
	"v1 TCP6": {
		[]byte("PROXY TCP6 2001:db8::1 2001:db8::2 0 65535\r\n"),
		proxyproto.Header{Version: 1, Source: tcp("[2001:db8::1]:0"), Destination: tcp("[2001:db8::2]:65535")},
	},
	"v1 mixed families": {
		[]byte("PROXY TCP6 ::ffff:192.168.0.1 2001:db8::2 1 2\r\n"),
		proxyproto.Header{Version: 1, Source: tcp("192.168.0.1:1"), Destination: tcp("[2001:db8::2]:2")},
	},
	"v1 unknown": {[]byte("PROXY UNKNOWN\r\n"), proxyproto.Header{Version: 1}},
	"v2 TCP4":    {unhex(sig + "21 11 000c c0a80001 c0a8000b dc04 01bb"), between(proxyproto.Header{Version: 2})},
	"v2 TCP4 and CRC32C": {
		unhex(sig + "2111 0013 c0a80001c0a8000bdc0401bb 030004 1c1ae9c6"),
		between(proxyproto.Header{Version: 2, Checksum: true}),
	},
	"v2 LOCAL": {unhex(sig + "20000000"), proxyproto.Header{Version: 2, Local: true}},
	"v2 TCP6": {
		unhex(sig + "21210024 20010db8000000000000000000000001 20010db8000000000000000000000002 dc0401bb"),
		proxyproto.Header{Version: 2, Source: tcp("[2001:db8::1]:56324"), Destination: tcp("[2001:db8::2]:443")},
	},
	"v2 ALPN and authority": {
		unhex(sig + "2111001f c0a80001c0a8000bdc0401bb 0100026832 02000b6578616d706c652e636f6d"),
		between(proxyproto.Header{Version: 2, ALPN: "h2", Authority: "example.com"}),
	},
	"v2 TLS without a certificate, as HAProxy has it": {
		unhex(sig + "2111001e c0a80001c0a8000bdc0401bb 20000f 01 00000000 210007544c5376312e33"),
		between(proxyproto.Header{Version: 2, TLS: &proxyproto.TLS{Version: "TLSv1.3"}}),
	},
	"v2 CRC32C, TLS and a certificate": {
		unhex(sig + "21110033 c0a80001c0a8000bdc0401bb 030004d143e126 20001d 07 00000000 210007544c5376312e33" +
			"22000b6578616d706c652e636f6d"),
		between(proxyproto.Header{Version: 2, Checksum: true, TLS: &proxyproto.TLS{Version: "TLSv1.3",
			CertOnConn: true, CertInSession: true, CommonName: "example.com"}}),
	},
	"v2 UNSPEC with fields": {
		unhex(sig + "2100000b 050001aa 3000017a e00000"),
		proxyproto.Header{Version: 2, UniqueID: []byte{0xaa}, NetNS: "z", Other: []proxyproto.TLV{{Type: 0xe0, Value: []byte{}}}},
	},
	"v2 Unix": {
		append(append(unhex(sig+"213100d8"), padded("/run/a")...), padded("")...),
		proxyproto.Header{Version: 2, Source: &net.UnixAddr{Net: "unix", Name: "/run/a"},
			Destination: &net.UnixAddr{Net: "unix", Name: "@"}},
	},
}

func between(h proxyproto.Header) proxyproto.Header {
	h.Source, h.Destination = tcp("192.168.0.1:56324"), tcp("192.168.0.11:443")
	return h
}

func padded(name string) []byte {
	return append([]byte(name), make([]byte, 108-len(name))...)
}

func TestHeader_W8_WorkedBytes(t *testing.T) {
	for name, tt := range worked {
		t.Run(name, func(t *testing.T) {
			written, err := tt.header.AppendBinary([]byte("before"))
			require.NoError(t, err)
			require.Equal(t, "before"+string(tt.bytes), string(written))

			h, n, err := proxyproto.Parse(append(bytes.Clone(tt.bytes), "after"...))
			require.NoError(t, err)
			require.Equal(t, len(tt.bytes), n)
			require.Equal(t, &tt.header, h)
			for n := range tt.bytes {
				_, _, err := proxyproto.Parse(tt.bytes[:n])
				require.Equal(t, io.ErrUnexpectedEOF, err, "the first %d bytes", n)
			}
		})
	}
}

// Headers that are written differently from how they are read, or cannot be written.
func TestHeader_W8_ReadLeniently(t *testing.T) {
	addrs := "c0a80001c0a8000bdc0401bb"
	tests := map[string]struct {
		bytes []byte
		want  proxyproto.Header
	}{
		"v1 unknown with addresses": {
			[]byte("PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n"), proxyproto.Header{Version: 1}},
		"v1 of 107 bytes": {
			[]byte("PROXY UNKNOWN " + strings.Repeat("x", 91) + "\r\n"), proxyproto.Header{Version: 1}},
		"v1 mapped": {
			[]byte("PROXY TCP6 ::ffff:192.168.0.1 ::ffff:192.168.0.11 56324 443\r\n"), between(proxyproto.Header{Version: 1})},
		"v2 mapped": {
			unhex(sig + "21210024 00000000000000000000ffffc0a80001 00000000000000000000ffffc0a8000b dc0401bb"),
			between(proxyproto.Header{Version: 2})},
		"v2 LOCAL with a block": {
			unhex(sig + "2011000c" + addrs), proxyproto.Header{Version: 2, Local: true}},
		"v2 LOCAL with anything": {
			unhex(sig + "20990003 030004"), proxyproto.Header{Version: 2, Local: true}},
		"v2 datagrams": {unhex(sig + "2112000c" + addrs), proxyproto.Header{Version: 2}},
		"v2 padding": {
			unhex(sig + "21110014" + addrs + "0400020000 040000"),
			between(proxyproto.Header{Version: 2})},
		"v2 TLS field of a client without": {
			unhex(sig + "21110014" + addrs + "200005 00 00000000"), between(proxyproto.Header{Version: 2})},
		"v2 unknown part of TLS": {
			unhex(sig + "2111001a" + addrs + "20000b 01 00000001 2f0003616263"),
			between(proxyproto.Header{Version: 2, TLS: &proxyproto.TLS{Verify: 1}})},
		"v2 relative Unix name": {
			append(append(unhex(sig+"213100d8"), padded("10.0.0.1:80")...), padded("\x00abstract")...),
			proxyproto.Header{Version: 2, Source: &net.UnixAddr{Net: "unix", Name: "@"},
				Destination: &net.UnixAddr{Net: "unix", Name: "@"}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h, n, err := proxyproto.Parse(tt.bytes)
			require.NoError(t, err)
			require.Equal(t, len(tt.bytes), n)
			require.Equal(t, &tt.want, h)
		})
	}
}

// refused has invalid headers, and how many bytes of each show that it is invalid.
var refused = map[string]struct {
	bytes []byte
	err   error
}{
	"HTTP":                      {[]byte("G"), proxyproto.ErrNoHeader},
	"TLS":                       {unhex("16"), proxyproto.ErrNoHeader},
	"v1 without a space":        {[]byte("PROXYT"), proxyproto.ErrNoHeader},
	"v1 lower case":             {[]byte("p"), proxyproto.ErrNoHeader},
	"v1 without an end":         {[]byte("PROXY " + strings.Repeat("x", 101)), proxyproto.ErrTooLong},
	"v1 end after 107":          {[]byte("PROXY UNKNOWN " + strings.Repeat("x", 93)), proxyproto.ErrTooLong},
	"v1 bare LF":                {[]byte("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n"), proxyproto.ErrMalformed},
	"v1 bare CR":                {[]byte("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\r\n"), proxyproto.ErrMalformed},
	"v1 two spaces":             {[]byte("PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n"), proxyproto.ErrMalformed},
	"v1 space at the end":       {[]byte("PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n"), proxyproto.ErrMalformed},
	"v1 family":                 {[]byte("PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n"), proxyproto.ErrMalformed},
	"v1 UDP":                    {[]byte("PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n"), proxyproto.ErrMalformed},
	"v1 no family":              {[]byte("PROXY \r\n"), proxyproto.ErrMalformed},
	"v1 no ports":               {[]byte("PROXY TCP4 192.0.2.1 192.0.2.2\r\n"), proxyproto.ErrMalformed},
	"v1 port out of range":      {[]byte("PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n"), proxyproto.ErrMalformed},
	"v1 port with a zero":       {[]byte("PROXY TCP4 192.0.2.1 192.0.2.2 080 2\r\n"), proxyproto.ErrMalformed},
	"v1 port with a sign":       {[]byte("PROXY TCP4 192.0.2.1 192.0.2.2 +80 2\r\n"), proxyproto.ErrMalformed},
	"v1 address with a zero":    {[]byte("PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n"), proxyproto.ErrMalformed},
	"v1 IPv6 in TCP4":           {[]byte("PROXY TCP4 2001:db8::1 192.0.2.2 1 2\r\n"), proxyproto.ErrMalformed},
	"v1 IPv4 in TCP6":           {[]byte("PROXY TCP6 192.0.2.1 2001:db8::1 1 2\r\n"), proxyproto.ErrMalformed},
	"v1 zone":                   {[]byte("PROXY TCP6 fe80::1%eth0 2001:db8::1 1 2\r\n"), proxyproto.ErrMalformed},
	"v1 name":                   {[]byte("PROXY TCP4 localhost 192.0.2.2 1 2\r\n"), proxyproto.ErrMalformed},
	"v2 signature":              {unhex("0d0a0d0a000d0a515549540b"), proxyproto.ErrNoHeader},
	"v2 of version 1":           {unhex(sig + "11"), proxyproto.ErrMalformed},
	"v2 of version 3":           {unhex(sig + "31"), proxyproto.ErrMalformed},
	"v2 oversized":              {unhex(sig + "21 11 1001"), proxyproto.ErrTooLong},
	"v2 oversized LOCAL":        {unhex(sig + "20 00 ffff"), proxyproto.ErrTooLong},
	"v2 command":                {unhex(sig + "22 11 000c c0a80001c0a8000bdc0401bb"), proxyproto.ErrMalformed},
	"v2 family":                 {unhex(sig + "21 41 000c c0a80001c0a8000bdc0401bb"), proxyproto.ErrMalformed},
	"v2 transport":              {unhex(sig + "21 13 000c c0a80001c0a8000bdc0401bb"), proxyproto.ErrMalformed},
	"v2 family without any":     {unhex(sig + "21 01 000c c0a80001c0a8000bdc0401bb"), proxyproto.ErrMalformed},
	"v2 shorter than addresses": {unhex(sig + "21 11 000b c0a80001c0a8000bdc0401"), proxyproto.ErrMalformed},
	"v2 half a field":           {unhex(sig + "21 11 000e c0a80001c0a8000bdc0401bb 0100"), proxyproto.ErrMalformed},
	"v2 field beyond the end":   {unhex(sig + "21 11 0010 c0a80001c0a8000bdc0401bb 010002 61"), proxyproto.ErrMalformed},
	"v2 two names":              {unhex(sig + "21 11 0014 c0a80001c0a8000bdc0401bb 02000161 02000162"), proxyproto.ErrMalformed},
	"v2 checksum":               {unhex(sig + "21 11 0013 c0a80001c0a8000bdc0401bb 030004 1c1ae9c7"), proxyproto.ErrChecksum},
	"v2 checksum of others":     {unhex(sig + "21 11 0013 c0a80002c0a8000bdc0401bb 030004 1c1ae9c6"), proxyproto.ErrChecksum},
	"v2 checksum of UNSPEC":     {unhex(sig + "21 00 0007 030004 1c1ae9c6"), proxyproto.ErrChecksum},
	"v2 short checksum":         {unhex(sig + "21 11 0011 c0a80001c0a8000bdc0401bb 030002 0000"), proxyproto.ErrMalformed},
	"v2 short TLS":              {unhex(sig + "21 11 0013 c0a80001c0a8000bdc0401bb 200004 01000000"), proxyproto.ErrMalformed},
	"v2 part beyond TLS":        {unhex(sig + "21 11 0018 c0a80001c0a8000bdc0401bb 200009 0100000000 21000254"), proxyproto.ErrMalformed},
	"v2 two versions of TLS": {unhex(sig + "21 11 001c c0a80001c0a8000bdc0401bb 20000d 0100000000 21000154 21000155"),
		proxyproto.ErrMalformed},
	"v2 long unique ID": {append(unhex(sig+"21 11 0090 c0a80001c0a8000bdc0401bb 050081"), make([]byte, 129)...),
		proxyproto.ErrMalformed},
}

func TestHeader_W8_Refused(t *testing.T) {
	for name, tt := range refused {
		t.Run(name, func(t *testing.T) {
			h, n, err := proxyproto.Parse(tt.bytes)
			require.ErrorIs(t, err, tt.err)
			require.Nil(t, h)
			require.Zero(t, n)
			require.Equal(t, 1, strings.Count(err.Error(), "proxyproto: "+tt.err.Error()[len("proxyproto: "):]), err)
			for n := range tt.bytes {
				_, _, err := proxyproto.Parse(tt.bytes[:n])
				require.Equal(t, io.ErrUnexpectedEOF, err, "the first %d bytes", n)
			}
		})
	}
}

func TestHeader_W8_NotWritten(t *testing.T) {
	tests := map[string]proxyproto.Header{
		"version":             {Version: 3},
		"one address":         {Source: tcp("192.0.2.1:1")},
		"other address":       {Destination: tcp("192.0.2.1:1")},
		"address of a kind":   {Source: tcp("192.0.2.1:1"), Destination: &net.UnixAddr{Net: "unix", Name: "/a"}},
		"datagrams":           {Source: &net.UDPAddr{IP: net.IPv4zero}, Destination: &net.UDPAddr{IP: net.IPv4zero}},
		"no IP":               {Source: &net.TCPAddr{}, Destination: &net.TCPAddr{}},
		"port":                {Source: tcp("192.0.2.1:1"), Destination: &net.TCPAddr{IP: net.IPv4zero, Port: 65536}},
		"long Unix name":      {Source: &net.UnixAddr{Name: "/" + strings.Repeat("a", 108)}, Destination: &net.UnixAddr{Name: "/"}},
		"long unique ID":      {UniqueID: make([]byte, 129)},
		"long authority":      {Authority: strings.Repeat("a", 65536)},
		"long common name":    {TLS: &proxyproto.TLS{CommonName: strings.Repeat("a", 65536)}},
		"a name among others": {Other: []proxyproto.TLV{{Type: 2, Value: []byte("a")}}},
	}
	for name, h := range tests {
		t.Run(name, func(t *testing.T) {
			b, err := h.AppendBinary([]byte("before"))
			require.ErrorContains(t, err, "proxyproto: ")
			require.Equal(t, "before", string(b))
			var out bytes.Buffer
			n, err := h.WriteTo(&out)
			require.Error(t, err)
			require.Zero(t, n)
			require.Zero(t, out.Len())
		})
	}
}

func TestHeader_W8_VersionOneAndLocalHaveNoFields(t *testing.T) {
	full := between(proxyproto.Header{Version: 1, ALPN: "h2", Checksum: true, UniqueID: []byte("id")})
	b, err := full.AppendBinary(nil)
	require.NoError(t, err)
	require.Equal(t, worked["v1"].bytes, b)
	full.Version, full.Local = 0, true
	b, err = full.AppendBinary(nil)
	require.NoError(t, err)
	require.Equal(t, worked["v2 LOCAL"].bytes, b)
	full.Version = 1
	b, err = full.AppendBinary(nil)
	require.NoError(t, err)
	require.Equal(t, worked["v1 unknown"].bytes, b)
}

func TestTLS_W8_Verified(t *testing.T) {
	require.False(t, (&proxyproto.TLS{}).Verified(), "zero without a certificate")
	require.False(t, (&proxyproto.TLS{CertOnConn: true, Verify: 1}).Verified())
	require.True(t, (&proxyproto.TLS{CertOnConn: true}).Verified())
	require.True(t, (&proxyproto.TLS{CertInSession: true}).Verified())
}

// fuzzParse checks every header that Parse accepts: it ends within bounds, has the same contents
// when it is written and read again, and no part of it is a header.
func fuzzParse(t *testing.T, b []byte) {
	h, n, err := proxyproto.Parse(b)
	if err != nil {
		require.Nil(t, h)
		require.Zero(t, n)
		return
	}
	require.LessOrEqual(t, n, len(b))
	if h.Version == 1 {
		require.LessOrEqual(t, n, 107)
	} else {
		require.LessOrEqual(t, n, 16+4096)
	}
	same, m, err := proxyproto.Parse(b[:n])
	require.NoError(t, err)
	require.Equal(t, n, m)
	require.Equal(t, h, same)
	for _, part := range []int{n / 2, n - 1} {
		_, _, err = proxyproto.Parse(b[:part])
		require.Equal(t, io.ErrUnexpectedEOF, err, "the first %d bytes", part)
	}

	written, err := h.AppendBinary(nil)
	require.NoError(t, err)
	again, m, err := proxyproto.Parse(written)
	require.NoError(t, err)
	require.Equal(t, len(written), m)
	require.Equal(t, h, again)
}

func FuzzParseVersion1(f *testing.F) {
	for _, tt := range worked {
		if tt.header.Version == 1 {
			f.Add(string(tt.bytes[len("PROXY "):]))
		}
	}
	for _, tt := range refused {
		if line, ok := strings.CutPrefix(string(tt.bytes), "PROXY "); ok {
			f.Add(line)
		}
	}
	f.Fuzz(func(t *testing.T, line string) { fuzzParse(t, []byte("PROXY "+line)) })
}

func FuzzParseVersion2(f *testing.F) {
	signature := unhex(sig)
	for _, tt := range worked {
		if rest, ok := bytes.CutPrefix(tt.bytes, signature); ok {
			f.Add(rest)
		}
	}
	for _, tt := range refused {
		if rest, ok := bytes.CutPrefix(tt.bytes, signature); ok {
			f.Add(rest)
		}
	}
	f.Fuzz(func(t *testing.T, rest []byte) { fuzzParse(t, append(unhex(sig), rest...)) })
}
