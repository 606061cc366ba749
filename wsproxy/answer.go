package wsproxy

import (
	"maps"
	"net/http"
)

// An answer is the response that goes to the client, while it passes through ReverseProxy.
type answer struct {
	header   http.Header  // the response's header, if ReverseProxy does not see it; else nil
	named    []string     // the response's Connection, if ReverseProxy sees the header; else nil
	required []string     // the Upgrade of a 426; else nil
	body     responseBody // the body that ReverseProxy reads; unused when the response has no body
}

// presentResponse returns the answer as ReverseProxy is to see it. ReverseProxy would copy its
// header line by line. To spare that, the answer has no header if ReverseProxy has nothing to
// decide about it and nobody else has the map.
func (k *walk) presentResponse(res *http.Response) *http.Response {
	if k.attempts.reader != nil {
		k.attempts.body.win(k.attempts.reader)
		k.upload.refuse()
	}
	a := &k.answer
	if res.StatusCode == http.StatusUpgradeRequired {
		a.required = res.Header["Upgrade"]
	}
	if k.last.direct && hasPlainConnection(res.Header) {
		removeHopByHop(res.Header)
		a.header, res.Header = res.Header, nil
	} else {
		a.named = res.Header["Connection"]
	}
	return res
}

// acceptResponse is ReverseProxy's ModifyResponse. It changes the answer into what the client gets,
// or switches protocols.
func (k *walk) acceptResponse(res *http.Response) error {
	if res.StatusCode == http.StatusSwitchingProtocols {
		return k.switchProtocols(res)
	}
	k.upgrade.freePlace() // if the target has declined to switch, this is a plain response
	if err := k.checkOpening(res); err != nil {
		return err
	}
	h := res.Header
	if k.answer.header != nil {
		h = k.answer.header
	}
	k.choice.bind(h, res.StatusCode, k.peer.tls)
	http1 := k.in.ProtoMajor == 1 && k.in.ProtoMinor > 0
	if k.answer.required != nil && http1 { // RFC 9110 section 15.5.22
		h["Upgrade"], h["Connection"] = k.answer.required, append(h["Connection"], "Upgrade")
	}
	suppressSniffing(k.w.Header(), h)
	k.filterTrailer(res.Trailer)
	if len(res.Trailer) > 0 && http1 && res.Body != http.NoBody {
		delete(h, "Content-Length") // leaves no room for trailers in HTTP/1.1
		res.ContentLength = -1
	}
	if k.answer.header != nil {
		mergeHeader(h, k.w.Header())
	}
	k.w.whole = res.Body == http.NoBody || 0 <= res.ContentLength && res.ContentLength <= maxAtHand
	if res.Body != http.NoBody {
		k.answer.body.init(res, k)
		res.Body = &k.answer.body
	}
	return nil
}

// suppressSniffing keeps the server from guessing the Content-Type of a response that has none.
func suppressSniffing(out, target http.Header) {
	if _, told := out["Content-Type"]; !told && len(target["Content-Type"]) == 0 {
		out["Content-Type"] = nil
	}
}

// filterTrailer removes the fields of the answer's trailer section that must not pass.
func (k *walk) filterTrailer(trailer http.Header) {
	if len(trailer) > 0 {
		maps.DeleteFunc(trailer, func(name string, _ []string) bool { return !mayTrail(name, k.answer.named) })
	}
}
