package main

import (
	"bytes"
	"encoding/json"
	"net/http"

	"github.com/stickylb/stickylb/wsproxy"
)

// most is how many bytes of a message count.
const most = 1 << 10

// conversation returns the key of a request: the beginning of its conversation, which all its
// requests have in common. These are the messages up to the first one of the user, and of each the
// first kilobyte. It returns an empty key for a body that is compressed, malformed or no chat. Then
// the client's address is the key.
func conversation(r *http.Request) string {
	if r.Header.Get("Content-Encoding") != "" {
		return ""
	}
	start, _ := wsproxy.PeekBody(r)
	return beginning(start)
}

// beginning reads the beginning of a body of JSON. It may be cut off anywhere.
func beginning(body []byte) string {
	d := json.NewDecoder(bytes.NewReader(body))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return ""
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return ""
		}
		if name == "messages" {
			return firstMessages(d, body)
		}
		var skipped json.RawMessage
		if d.Decode(&skipped) != nil {
			return ""
		}
	}
	return ""
}

// firstMessages reads the list of messages. If the body is cut off in a message, the first kilobyte
// of that one counts.
func firstMessages(d *json.Decoder, body []byte) string {
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return ""
	}
	var key []byte
	for d.More() {
		from := d.InputOffset()
		var m struct {
			Role    string          `json:"role"`
			Content json.RawMessage `json:"content"`
		}
		if d.Decode(&m) != nil {
			rest := body[from:]
			return string(append(key, rest[:min(len(rest), most)]...))
		}
		key = append(key, m.Content[:min(len(m.Content), most)]...)
		if m.Role == "user" {
			break
		}
	}
	return string(key)
}
