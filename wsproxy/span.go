package wsproxy

import (
	"net/http"

	"github.com/stickylb/stickylb/balancer"
)

// A span has what Trace.Span and Trace.Attempt get for one attempt.
type span struct {
	told Attempt
	end  func(Attempt) // the result of Trace.Span; nil when it is not to be called
}

// beginSpan calls Trace.Span with an attempt whose request is complete.
func (k *walk) beginSpan(req *http.Request, m *balancer.Member) {
	if k.rt.trace.Span == nil {
		return
	}
	if req.Header == nil { // Proxy.Target has removed it
		req.Header = make(http.Header)
	}
	s := &k.last.span
	s.told = Attempt{Target: k.last.target, Number: k.last.number}
	s.end = k.rt.trace.Span(k.in, Outgoing{Member: m, Number: k.last.number, Header: req.Header})
}

// tellAttempt calls Trace.Attempt when an attempt has its response, or has failed.
func (k *walk) tellAttempt(res *http.Response, failure *Error) {
	s := &k.last.span
	if k.rt.trace.Attempt == nil && s.end == nil {
		return
	}
	s.told = Attempt{Target: k.last.target, Number: k.last.number, Latency: k.last.latency}
	if failure != nil {
		s.told.Err = failure
	} else {
		s.told.Status = res.StatusCode
	}
	if k.rt.trace.Attempt != nil {
		k.rt.trace.Attempt(k.in, s.told)
	}
}

// close ends the span. failure is what went wrong after the attempt had its response, or nil.
func (s *span) close(failure *Error) {
	end, told := s.end, s.told
	if end == nil {
		return
	}
	s.end = nil
	if told.Err == nil && failure != nil {
		told.Err = failure
	}
	end(told)
}
