package wsproxy

import (
	"reflect"
	"time"
)

// GrowStack does what the proxy does at the beginning of a request, or of an upgrade.
func GrowStack(upgrade bool) {
	if growStack(false); upgrade {
		growStackForUpgrade(false)
	}
}

// LimitUploads shortens how long a target may take nothing of an upload. It must come before the
// first request.
func LimitUploads(p *Proxy, d time.Duration) {
	rt := p.setup()
	rt.uploadLimit, rt.transports.own.WriteTimeout = d, d
}

// PatientAhead has the proxy wait that long for a client that pauses while its body is read ahead,
// so that a machine that stalls changes nothing. It must come before the first request.
func PatientAhead(p *Proxy, d time.Duration) { p.setup().aheadPause = d }

// Lanes returns how many members the proxy knows ways to.
func Lanes(p *Proxy) (n int) {
	p.setup().transports.lanes.Range(func(any, any) bool { n++; return true })
	return n
}

// Leftovers returns the names of the fields in which a walk that waits for its next request still
// has something of the last one. It reports false when the proxy keeps no walk now.
func Leftovers(p *Proxy) (names []string, ok bool) {
	k, ok := p.setup().walks.Get().(*walk)
	if !ok {
		return nil, false
	}
	return leftovers("walk", reflect.ValueOf(k).Elem(), nil), true
}

func leftovers(name string, v reflect.Value, names []string) []string {
	switch name {
	case "walk.frame.p", "walk.frame.rt", "walk.frame.proxy": // the same for all requests
		return names
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			names = leftovers(name+"."+v.Type().Field(i).Name, v.Field(i), names)
		}
		return names
	case reflect.Map: // memory may be kept, if it is empty
		if v.Len() == 0 {
			return names
		}
	case reflect.Slice:
		if kept := v.Slice(0, v.Cap()); isZero(kept) {
			return names
		}
	}
	if v.IsZero() {
		return names
	}
	return append(names, name)
}

func isZero(list reflect.Value) bool {
	for i := range list.Len() {
		if !list.Index(i).IsZero() {
			return false
		}
	}
	return true
}
