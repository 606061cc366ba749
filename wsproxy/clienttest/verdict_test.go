package clienttest_test

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/stickylb/stickylb/wsproxy"
)

// verdict says what is wrong with a deed; empty when nothing is. failed is the proxy's record of the request, if it had a
// failure to tell. The rules are these.
//
//   - No byte is wrong, whatever happened.
//   - Every request has a complete answer. Only a long body may break off (and be seen to): when its target died
//     meanwhile, or was down, which cuts what is under way. Either may also fall between a header and the first bytes of
//     its body, when net/http has not sent the header yet.
//   - A 502 is right when the last target that was asked was dead meanwhile, or down; a 504 when it was frozen, or this
//     machine was starved; a 503 when there was nobody. No other status is.
//   - A session leaves its target only if something was wrong with that target during the very request: it was dead,
//     frozen, ill or leaving; or this machine was starved, so that it was tried in vain. Then, and only then, the answer
//     binds it anew.
//   - A WebSocket ends only when its target has died, or was leaving and the close frame says 1012, or was down, since its
//     last sign of life. One that the visitor closes may also be left without an answer by a frozen target, or by a
//     starved machine.
func (d *deed) verdict(h *history, failed *wsproxy.Record) string {
	switch {
	case d.wrong != "":
		return d.wrong
	case d.what == talks, d.what == leaves:
		return d.verdictOfWebSocket(h)
	case d.err != nil:
		if d.what == loads && d.by != "" && h.had(d.by, dead|down, d.from, d.to) {
			return ""
		}
		reasons := down
		if d.what == loads {
			reasons |= dead
		}
		if e, ok := failure(failed); ok && d.status == 0 && e.Class == wsproxy.ClassBody && h.had(e.Target, reasons, d.from, d.to) {
			return ""
		}
		return fmt.Sprintf("no complete answer: %v", d.err)
	case d.by == "":
		return d.verdictOfFailure(h, failed)
	case d.status != http.StatusOK && d.status != http.StatusSwitchingProtocols:
		return "the target answers with an unexpected status"
	case d.cookie != (d.by != d.bound):
		return "the session is bound although it stays, or is not although it moves"
	case d.bound != "" && d.by != d.bound && !h.had(d.bound, dead|frozen|ill|leaving, d.from, d.to) && !h.had("", starved, d.from, d.to):
		return "the session has left its target for no reason"
	}
	return ""
}

// failure is what the record tells.
func failure(failed *wsproxy.Record) (*wsproxy.Error, bool) {
	if failed == nil {
		return nil, false
	}
	return errors.AsType[*wsproxy.Error](failed.Err)
}

func (d *deed) verdictOfFailure(h *history, failed *wsproxy.Record) string {
	if d.cookie {
		return "an error page binds the session"
	}
	e, ok := failure(failed)
	if !ok || e.Status != d.status {
		return "the proxy does not tell of this failure"
	}
	switch d.status {
	case http.StatusBadGateway:
		ok = h.had(e.Target, dead|down, d.from, d.to)
	case http.StatusServiceUnavailable:
		ok = e.Class == wsproxy.ClassNoTarget && h.had("", nobody, d.from, d.to)
	case http.StatusGatewayTimeout:
		ok = e.Class == wsproxy.ClassHeaderTimeout && h.had(e.Target, frozen, d.from, d.to) ||
			h.had("", starved, d.from, d.to) // then even to connect may take too long
	default:
		ok = false
	}
	if !ok {
		return fmt.Sprintf("the failure has no reason: %v", failed.Err)
	}
	return ""
}

func (d *deed) verdictOfWebSocket(h *history) string {
	reasons := dead | down
	if d.code == 1012 {
		reasons = leaving
	} else if d.what == leaves {
		reasons |= frozen
	}
	if d.what == leaves && h.had("", starved, d.from, d.to) {
		return ""
	}
	if d.err != nil && !h.had(d.by, reasons, d.from, d.to) {
		return fmt.Sprintf("the WebSocket has ended for no reason: %v", d.err)
	}
	return ""
}
