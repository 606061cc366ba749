package health

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/stickylb/stickylb/balancer"
)

// A Page is the status page of all pools of a process. Set its fields, then call [Page.Handler];
// afterwards they must not be changed.
type Page struct {
	// Registries are shown in this order. At least one is required. If there are several, each
	// needs a pool with a different name, see [balancer.Config].Name.
	Registries []*Registry

	// Hosts are the hosts, with any port, for which the page answers. Besides them it answers for
	// loopback names (localhost and all names below it, 127.0.0.0/8, ::1) and for the address that
	// the request's connection was made to. An operator who reaches the page under another name,
	// such as that of a reverse proxy, needs it here. Letter case does not matter.
	Hosts []string

	// Who returns the name of the person or program that sends a request. The page calls it for
	// each button that is pressed. The name is logged, shown on the page, and part of its JSON and
	// of events. It must not be a secret, such as a token. At most 128 bytes of it are used.
	// Control characters and characters that change the direction of text are replaced by U+FFFD.
	// An empty name, and a nil Who, stand for "somebody". Calls are concurrent. If Who panics, the
	// button does nothing.
	Who func(*http.Request) string
}

// PageStatus is what a [Page] serves as JSON.
type PageStatus struct {
	Pools []Status `json:"pools"` // in the order of Page.Registries
}

// Validate returns an error if the fields cannot be used: if there are no registries, a registry
// has no pool, two pools have the same name, one of several pools has no name, or no request can
// have one of the Hosts. [Page.Handler] panics with that error.
func (p *Page) Validate() error {
	if len(p.Registries) == 0 {
		return errors.New("health: Page.Registries is empty")
	}
	seen := make(map[string]bool)
	for i, r := range p.Registries {
		switch {
		case r == nil:
			return fmt.Errorf("health: Page.Registries: %d is nil", i)
		case r.Pool == nil:
			return fmt.Errorf("health: Page.Registries: %d: Registry.Pool is nil", i)
		case r.Pool.Name() == "" && len(p.Registries) > 1:
			return fmt.Errorf("health: Page.Registries: %d: the pool has no name, see balancer.Config.Name", i)
		case seen[r.Pool.Name()]:
			return fmt.Errorf("health: Page.Registries: %d: another pool has the name %q", i, r.Pool.Name())
		}
		seen[r.Pool.Name()] = true
	}
	return p.validateHosts()
}

func (p *Page) validateHosts() error {
	for _, host := range p.Hosts {
		if err := checkHost(host); err != nil {
			return err
		}
	}
	return nil
}

// Status returns the present status of all pools. It is safe for concurrent use.
func (p *Page) Status() PageStatus {
	s := PageStatus{Pools: make([]Status, len(p.Registries))}
	for i, r := range p.Registries {
		s.Pools[i] = r.Status()
	}
	return s
}

// Handler returns the handler of the page. It may be mounted at any path. It does not authenticate
// anybody: serve it on a listener that only operators can reach, or behind a handler that
// authenticates. Handler panics if [Page.Validate] returns an error.
//
// GET answers with the [PageStatus]. The answer is HTML if the request's Accept names text/html, as
// browsers do, and JSON otherwise. The query overrides Accept: format=json or format=html. With
// pool=NAME the answer is about that pool alone; an unknown pool is answered with 404. The page has
// no script and loads nothing from elsewhere.
//
// The HTML page has more parameters: show (all, trouble or draining), q (a part of a target's ID,
// URL, address or zone, at most 256 bytes), sort (worst, order, name, load, rate, failures,
// latency, downtime or change), page (from 1; a page has 100 targets) and refresh (seconds, at most
// 3600). A parameter with any other value counts as absent.
//
// POST takes a form (application/x-www-form-urlencoded, at most 1 MiB, no field twice) with these
// fields. The field pool is the pool's name; it may be missing if there is only one pool. The field
// target is the target's ID. The field action is drain (as [Registry.Drain] with Registry.Drains,
// while Run runs), down ([balancer.Down] at once) or ready ([balancer.Ready], which cancels a drain
// and ends an ejection). If the pool has no target with that ID, the form is about the targets that
// have left the pool under that ID and still have something in flight. With leaving=true it is
// about these alone.
//
// A POST is answered as a GET is, except that a browser is redirected to the page. A form that
// cannot be used is answered with a status of 4xx and changes nothing. The registry records and
// logs each button that was pressed, with the name that Page.Who returns.
//
// A request that a browser sends from another site is refused with 403, see
// [http.CrossOriginProtection]. A request for a host other than this machine and Page.Hosts is
// refused with 421, also if it is a GET. This prevents DNS rebinding: a foreign page whose name
// resolves to this server would otherwise count as the server's own.
func (p *Page) Handler() http.Handler {
	if err := p.Validate(); err != nil {
		panic(err)
	}
	h := &pageHandler{page: Page{Registries: slices.Clone(p.Registries), Who: p.Who}}
	return p.Protect(h)
}

// Protect returns next with the protection of [Page.Handler]. It is for other handlers on the
// listener of the page. It refuses with 403 what a browser sends from another site, except GET and
// HEAD, see [http.CrossOriginProtection]. It refuses with 421 a request for any other host than
// this machine and Page.Hosts. It does not authenticate anybody. It needs no Registries. It panics
// if no request can have one of the Hosts.
func (p *Page) Protect(next http.Handler) http.Handler {
	if err := p.validateHosts(); err != nil {
		panic(err)
	}
	return onlyFor(p.Hosts, http.NewCrossOriginProtection().Handler(next))
}

// A pageHandler serves a page. It has its own copy of the page's fields.
type pageHandler struct{ page Page }

// ServeHTTP implements [http.Handler].
func (p *pageHandler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Content-Security-Policy", policy())
	switch req.Method {
	case http.MethodGet, http.MethodHead:
		p.serveStatus(w, req)
	case http.MethodPost:
		p.serveAction(w, req)
	default:
		h.Set("Allow", "GET, HEAD, POST")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	}
}

func (p *pageHandler) serveStatus(w http.ResponseWriter, req *http.Request) {
	query := readQuery(req.URL.Query())
	if query.pool != "" && p.registry(query.pool) == nil {
		http.Error(w, "no such pool", http.StatusNotFound)
		return
	}
	if wantsPage(req) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		pageTemplate().Execute(w, newView(query, p.page.Status()))
		return
	}
	s := p.page.Status()
	if query.pool != "" {
		s.Pools = slices.DeleteFunc(s.Pools, func(s Status) bool { return s.Pool != query.pool })
	}
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.Encode(s)
}

// wantsPage reports whether the request asks for HTML.
func wantsPage(req *http.Request) bool {
	switch req.URL.Query().Get("format") {
	case "json":
		return false
	case "html":
		return true
	}
	for _, line := range req.Header.Values("Accept") {
		for part := range strings.SplitSeq(line, ",") {
			mediaType, _, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(mediaType), "text/html") {
				return true
			}
		}
	}
	return false
}

// registry returns the registry of the pool with that name. It returns nil if there is none.
func (p *pageHandler) registry(pool string) *Registry {
	for _, r := range p.page.Registries {
		if r.Pool.Name() == pool {
			return r
		}
	}
	return nil
}

// maxForm limits a form, in bytes. A target's ID of 64 KiB fits, in any encoding.
const maxForm = 1 << 20

func (p *pageHandler) serveAction(w http.ResponseWriter, req *http.Request) {
	query := readQuery(req.URL.Query())
	if query.pool != "" && p.registry(query.pool) == nil {
		http.Error(w, "no such pool", http.StatusNotFound)
		return
	}
	req.Body = http.MaxBytesReader(w, req.Body, maxForm)
	if status, problem := parseForm(req); problem != "" {
		http.Error(w, problem, status)
		return
	}
	order, status, problem := p.readOrder(req)
	if problem != "" {
		http.Error(w, problem, status)
		return
	}
	if err := order.carryOut(); err != nil {
		http.Error(w, plain(err), http.StatusConflict)
		return
	}
	if !wantsPage(req) {
		p.serveStatus(w, req)
		return
	}
	// A reference without a path leads back to the page even if a prefix was stripped.
	w.Header().Set("Location", newView(query, p.page.Status()).placeOf(order.registry.Pool.Name(), order.target))
	w.WriteHeader(http.StatusSeeOther)
}

// parseForm parses the form of a button. If problem is not empty, the request is answered with the
// status and the problem. A field that is there twice is ambiguous, so it is refused.
func parseForm(req *http.Request) (status int, problem string) {
	const form = "application/x-www-form-urlencoded"
	if kind, _, err := mime.ParseMediaType(req.Header.Get("Content-Type")); err != nil || kind != form {
		return http.StatusUnsupportedMediaType, "the Content-Type must be " + form
	}
	if err := req.ParseForm(); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return http.StatusRequestEntityTooLarge, "the form is larger than 1 MiB"
		}
		return http.StatusBadRequest, "the form cannot be read"
	}
	for name, values := range req.PostForm {
		if len(values) > 1 {
			return http.StatusBadRequest, fmt.Sprintf("the form has the field %.64q twice", name)
		}
	}
	return 0, ""
}

// An order is the request of a button.
type order struct {
	registry       *Registry
	target, action string
	leaving        bool
	members        []*balancer.Member
	by             string
}

// readOrder returns the order in the form. If problem is not empty, the request is answered with
// the status and the problem.
func (p *pageHandler) readOrder(req *http.Request) (o order, status int, problem string) {
	form := req.PostForm
	o.action, o.leaving = form.Get("action"), form.Get("leaving") == "true"
	switch {
	case form.Has("pool"):
		o.registry = p.registry(form.Get("pool"))
	case len(p.page.Registries) == 1:
		o.registry = p.page.Registries[0]
	default:
		return o, http.StatusBadRequest, "there are several pools: the form must name one in pool"
	}
	if o.registry == nil {
		return o, http.StatusNotFound, "no such pool"
	}
	var ok bool
	if o.target, ok = readTarget(form.Get("target"), form.Get("quoted") == "true"); !ok {
		return o, http.StatusBadRequest, "the target cannot be read"
	}
	find := o.registry.find
	if o.leaving {
		find = o.registry.findLeaving
	}
	if o.members = find(o.target); len(o.members) == 0 {
		return o, http.StatusNotFound, "no such target"
	}
	if !slices.Contains([]string{"drain", "down", "ready"}, o.action) {
		return o, http.StatusBadRequest, "the action is none of drain, down and ready"
	}
	o.by = p.page.who(req)
	return o, 0, ""
}

// writeTarget returns an ID as the value of a form's field. Browsers change line breaks and invalid
// UTF-8 in a field, so an ID with them is quoted.
func writeTarget(id string) (value string, quoted bool) {
	if utf8.ValidString(id) && !strings.ContainsAny(id, "\r\n\x00") {
		return id, false
	}
	return strconv.QuoteToASCII(id), true
}

// readTarget returns the ID that writeTarget has written. It reports whether the value is valid.
func readTarget(value string, quoted bool) (id string, ok bool) {
	if !quoted {
		return value, true
	}
	id, err := strconv.Unquote(value)
	return id, err == nil
}

// maxWho limits a name that Page.Who returns, in bytes.
const maxWho = 128

// who returns the name of the person or program that sends a request.
func (p *Page) who(req *http.Request) string {
	var name string
	if p.Who != nil {
		name = p.Who(req)
	}
	if len(name) > maxWho {
		name = name[:maxWho] // it may end within a character, which is invalid UTF-8 then
	}
	if name = harmless(strings.TrimSpace(name)); name == "" {
		return "somebody"
	}
	return name
}

// carryOut does what the button says, and records the press. It returns an error if that is not
// possible. Draining a target that is being drained already is not an error, because the target is
// in the state that the button asks for.
func (o *order) carryOut() error {
	var failed error
	done := false
	for _, m := range o.members {
		if err := o.act(m); err != nil {
			failed = err
		} else {
			done = true
		}
	}
	press := Press{At: universal(time.Now()), By: o.by, Action: o.action, Target: o.target, Leaving: o.leaving}
	if !done {
		press.Problem = plain(failed)
	}
	o.registry.recordPress(press)
	if done || errors.Is(failed, ErrDraining) {
		return nil
	}
	return failed
}

// act does what the button says to one member.
func (o *order) act(m *balancer.Member) error {
	r := o.registry
	switch o.action {
	case "drain":
		return r.startDrain(m, o.by)
	case "down":
		r.because(m, balancer.Down, "", o.by)
		m.SetAdmin(balancer.Down)
	case "ready":
		r.because(m, balancer.Ready, "", o.by)
		m.SetAdmin(balancer.Ready)
		r.pardonedBy(m, o.by)
		m.Eject(time.Time{})
	}
	return nil
}
