package upstream

import (
	"bytes"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// mayClose reports whether the start of a response has Connection with close, or whether the header
// is not complete yet.
func mayClose(start []byte) bool {
	before, _, ok := bytes.Cut(start, []byte("\r\n\r\n"))
	if !ok {
		return true
	}
	return httpguts.HeaderValuesContainsToken(connectionLines(before), "close")
}

// restoreConnection puts the Connection lines back into h. http.ReadResponse removes all of them if
// one contains close, but they may name other fields that end at this hop (RFC 9110 section 7.6.1).
// If there is only close, it stays removed.
func restoreConnection(h http.Header, header []byte) {
	lines := connectionLines(header)
	if strings.Contains(strings.Join(lines, ""), ",") || len(lines) > 1 {
		h["Connection"] = lines
	}
}

// connectionLines returns the values of Connection in the bytes of a header. Parts of the body may
// follow the header.
func connectionLines(header []byte) (values []string) {
	inside := false // the last line was one of Connection, or continued it
	for line := range bytes.SplitSeq(header, []byte("\n")) {
		line = bytes.TrimSuffix(line, []byte("\r"))
		switch {
		case len(line) == 0:
			return values
		case line[0] == ' ' || line[0] == '\t': // RFC 9112 section 5.2
			if inside {
				values[len(values)-1] += string(line)
			}
		default:
			name, value, _ := bytes.Cut(line, []byte(":"))
			if inside = bytes.EqualFold(name, []byte("Connection")); inside {
				values = append(values, string(bytes.TrimSpace(value)))
			}
		}
	}
	return values
}
