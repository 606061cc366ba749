package main

import (
	"bytes"
	"encoding/json"
	"net/http"

	"github.com/stickylb/stickylb/wsproxy"
)

// most is how many bytes of a message, or of a prompt, count.
const most = 1 << 10

// conversation returns the key of a request: the beginning of its conversation, which all its
// requests have in common. These are the messages up to the first one of the user, and of each the
// first kilobyte. A prompt that is no list of messages counts with its first kilobyte. The key is
// empty for a body that is compressed, malformed or has neither. Then the client's address is the
// key.
func conversation(r *http.Request) string {
	if r.Header.Get("Content-Encoding") != "" {
		return ""
	}
	start, _ := wsproxy.PeekBody(r)
	return beginning(start)
}

// beginning reads the beginning of a body of JSON. It may be cut off anywhere. The member is called
// messages in the API of chat completions, input in that of responses, and prompt in that of
// completions. Only strings and lists count: the API of responses has an object named prompt.
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
		value := bytes.TrimLeft(body[d.InputOffset():], ": \t\r\n")
		if name == "messages" || name == "input" || name == "prompt" {
			switch {
			case bytes.HasPrefix(value, []byte("[")):
				return firstMessages(d, body)
			case bytes.HasPrefix(value, []byte(`"`)):
				return firstKilobyte(d, value)
			}
		}
		var skipped json.RawMessage
		if d.Decode(&skipped) != nil {
			return ""
		}
	}
	return ""
}

// firstKilobyte reads the next value of d. rest begins with it, and may be cut off in it.
func firstKilobyte(d *json.Decoder, rest []byte) string {
	var value json.RawMessage
	if d.Decode(&value) != nil {
		value = rest
	}
	return string(value[:min(len(value), most)])
}

// firstMessages reads the list of messages. If the body is cut off in a message, the first kilobyte
// of that one counts. The elements of a list may also be strings, or tokens: then the first
// kilobyte of these counts.
func firstMessages(d *json.Decoder, body []byte) string {
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return ""
	}
	var key []byte
	for d.More() {
		rest := body[d.InputOffset():]
		var element json.RawMessage
		if d.Decode(&element) != nil {
			return string(append(key, rest[:min(len(rest), most)]...))
		}
		var m struct {
			Role    string          `json:"role"`
			Content json.RawMessage `json:"content"`
		}
		if json.Unmarshal(element, &m) != nil { // no message
			key = append(key, element...)
			if len(key) >= most {
				return string(key[:most])
			}
			continue
		}
		key = append(key, m.Content[:min(len(m.Content), most)]...)
		if m.Role == "user" {
			break
		}
	}
	return string(key)
}
