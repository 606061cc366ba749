package wsproxy

import (
	"maps"
	"net/http"
)

// win is called with the response of the attempt that is the answer. ReverseProxy is shown its
// header only where it has something to decide there, and when nobody else can know the map.
func (k *walk) win(res *http.Response) *http.Response {
	if k.reader != nil {
		k.body.win(k.reader)
		k.upload.refuse()
	}
	if res.StatusCode == http.StatusUpgradeRequired {
		k.required = res.Header["Upgrade"]
	}
	if k.direct && isPlain(res.Header) {
		removeHopByHop(res.Header)
		k.answered, res.Header = res.Header, nil
	} else {
		k.named = res.Header["Connection"]
	}
	return res
}

// modifyResponse sees the response of the attempt that won.
func (k *walk) modifyResponse(res *http.Response) error {
	if res.StatusCode == http.StatusSwitchingProtocols {
		return k.switchProtocols(res)
	}
	k.leaveTunnels() // if the target has declined to switch, what follows is a plain response
	if err := k.checkOpening(res); err != nil {
		return err
	}
	h := res.Header
	if k.answered != nil {
		h = k.answered
	}
	k.choice.bind(h, res.StatusCode, k.peer.tls)
	if k.required != nil && k.in.ProtoMajor == 1 && k.in.ProtoMinor > 0 { // RFC 9110 section 15.5.22
		h["Upgrade"], h["Connection"] = k.required, append(h["Connection"], "Upgrade")
	}
	suppressSniffing(k.w.Header(), h)
	if k.filterTrailer(res.Trailer); len(res.Trailer) > 0 && k.in.ProtoMajor == 1 && k.in.ProtoMinor > 0 && res.Body != http.NoBody {
		delete(h, "Content-Length") // leaves no room for trailers in HTTP/1.1
		res.ContentLength = -1
	}
	if k.answered != nil {
		move(h, k.w.Header())
	}
	k.w.whole = res.Body == http.NoBody || 0 <= res.ContentLength && res.ContentLength <= maxAtHand
	if res.Body != http.NoBody {
		k.response.init(res, k)
		res.Body = &k.response
	}
	return nil
}

// suppressSniffing keeps the server from guessing the Content-Type of a response that has none.
func suppressSniffing(out, target http.Header) {
	if _, told := out["Content-Type"]; !told && len(target["Content-Type"]) == 0 {
		out["Content-Type"] = nil
	}
}

// filterTrailer removes the fields of a response's trailer section that may not pass.
func (k *walk) filterTrailer(trailer http.Header) {
	if len(trailer) > 0 {
		maps.DeleteFunc(trailer, func(name string, _ []string) bool { return !mayTrail(name, k.named) })
	}
}
