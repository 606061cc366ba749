package browsertest_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// A page is the demo's, in a tab of its own.
type page struct {
	t       *testing.T
	ctx     context.Context
	clicked map[string]bool // by the button's text
}

// open opens the page in a tab, with the cookies that the browser has.
func open(t *testing.T, browser context.Context, url string) *page {
	t.Helper()
	tab, cancel := chromedp.NewContext(browser)
	t.Cleanup(cancel)
	require.NoError(t, chromedp.Do(tab), "open a tab") // which lives as long as the context of this first call
	p := &page{t: t, ctx: tab, clicked: map[string]bool{}}
	p.do(chromedp.EmulateViewport(1280, 900), chromedp.Navigate(url+"/"))
	p.ready()
	return p
}

// ready waits until the page has all that it shows.
func (p *page) ready() {
	p.t.Helper()
	p.until(`document.querySelectorAll('.card .state').length === 3`)
	p.until(`$('socket').textContent.startsWith('open with') && $('seen').textContent.includes('over')`)
}

func (p *page) do(actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	require.NoError(p.t, chromedp.Do(ctx, actions...))
}

// until waits for the page to make a JavaScript expression true.
func (p *page) until(format string, args ...any) {
	p.t.Helper()
	expression := fmt.Sprintf(format, args...)
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	_, err := chromedp.Run(ctx, chromedp.Poll[chromedp.Void](expression, chromedp.WithPollingTimeout(patience), chromedp.WithPollingInterval(glance)))
	if err != nil {
		require.FailNow(p.t, "the page does not come to this", "%s: %v\n%s", expression, err, p.text("body"))
	}
}

// text is what a person reads in the element.
func (p *page) text(selector string) string {
	p.t.Helper()
	text, err := chromedp.Run(p.ctx, chromedp.Evaluate[string](fmt.Sprintf(`document.querySelector(%q).innerText`, selector)))
	require.NoError(p.t, err)
	return text
}

// click clicks the button of this text, as a person would, in the card of a backend if that is not empty.
func (p *page) click(backend, button string) {
	p.t.Helper()
	within := "//main"
	if backend != "" {
		within = fmt.Sprintf("//section[contains(@class,'card')][@data-backend='%s']", backend)
	}
	path := fmt.Sprintf("%s//button[normalize-space()='%s'][not(@disabled)]", within, button)
	p.do(chromedp.Click(path, chromedp.NodeVisible))
	p.clicked[button] = true
}

// home is the backend of the session, by the page's badge.
func (p *page) home() string { p.t.Helper(); return p.text("#session") }

// moves waits until the session and its WebSocket are somewhere else together, and returns where.
func (p *page) moves(from string) (to string) {
	p.t.Helper()
	p.until(`$('session').textContent !== %q && $('socket').textContent.startsWith('open with ' + $('session').textContent)`, from)
	to = p.home()
	require.Regexp(p.t, `^app-[123]$`, to)
	return to
}

// stays requires the session, its WebSocket and the mark on the cards at this backend.
func (p *page) stays(home string) {
	p.t.Helper()
	require.Equal(p.t, home, p.home())
	require.Contains(p.t, p.text("#socket"), "open with "+home)
	require.Equal(p.t, home+" your session", strings.Join(strings.Fields(p.text(".card[data-backend='"+home+"'] h2")), " "))
	p.until(`document.querySelectorAll('.yours:not([hidden])').length === 1`)
}

// reload is the browser's.
func (p *page) reload() {
	p.t.Helper()
	p.do(chromedp.Reload())
	p.ready()
}

// visitors sends nine and returns where they went.
func (p *page) visitors() []string {
	p.t.Helper()
	p.click("", "Send nine")
	p.until(`$('dots').children.length === 9 && !$('visitors').disabled`)
	went, err := chromedp.Run(p.ctx, chromedp.Evaluate[[]string](`[...$('dots').children].map(dot => dot.title)`))
	require.NoError(p.t, err)
	for _, to := range slices.Compact(slices.Sorted(slices.Values(went))) {
		require.Contains(p.t, p.text("#tally"), "to "+to)
	}
	return went
}

// visited sends visitors until one lands there: it is as likely as elsewhere.
func (p *page) visited(backend string) {
	p.t.Helper()
	for range 5 {
		if slices.Contains(p.visitors(), backend) {
			return
		}
	}
	require.FailNow(p.t, "no visitor lands there", backend)
}

// card waits until a backend's card says so.
func (p *page) card(backend, field, want string) {
	p.t.Helper()
	p.until(`document.querySelector('.card[data-backend=%q] .%s').textContent === %q`, backend, field, want)
}

func TestPage(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			d := startDemo(t)
			url := d.http
			if scheme == "https" {
				url = d.https
			}
			p := open(t, startBrowser(t), url)
			for _, part := range []struct {
				name string
				play func(p *page)
			}{
				{"stickiness", stickiness}, {"messages", messages}, {"forget", forget},
				{"drain", drain}, {"stop", stop}, {"everything was clicked", everythingClicked},
			} {
				require.True(t, t.Run(part.name, func(t *testing.T) {
					p.t = t
					part.play(p)
				}))
			}
			require.Contains(t, p.text("#seen"), "127.0.0.1 over "+scheme)
		})
	}
}

func stickiness(p *page) {
	home := p.home()
	p.stays(home)
	for range 3 {
		p.reload()
		p.stays(home)
	}
	p.click("", "Ask again")
	p.until(`$('log').textContent.includes(%q)`, home+" answered, as before.")
	p.stays(home)
}

func messages(p *page) {
	p.do(chromedp.SendKeys(chromedp.CSS("#text"), "is <b>anybody</b> there?"))
	p.click("", "Send")
	p.until(`[...$('messages').children].some(line => line.innerText === %q)`, p.home()+` heard "is <b>anybody</b> there?"`)
	p.until(`[...$('messages').children].some(line => /tick \d+$/.test(line.innerText))`)
}

func forget(p *page) {
	for range 2 {
		home := p.home()
		p.click("", "Forget the cookie")
		moved := p.moves(home)
		p.stays(moved)
		p.reload()
		p.stays(moved)
	}
}

func drain(p *page) {
	home := p.home()
	p.click(home, "Drain")
	p.card(home, "state", "healthy, draining")
	p.reload()
	p.stays(home)
	require.NotContains(p.t, p.visitors(), home)
	p.click("", "Forget the cookie")
	refuge := p.moves(home)
	require.NotContains(p.t, p.visitors(), home, "although it has nothing to do")

	p.click(home, "Ready again")
	p.card(home, "state", "healthy")
	p.visited(home)
	p.stays(refuge)
}

func stop(p *page) {
	home := p.home()
	p.click(home, "Stop")
	refuge := p.moves(home) // without a reload
	p.until(`$('log').textContent.includes(%q)`, fmt.Sprintf("WebSocket with %s lost", home))
	p.card(home, "process", "stopped")
	p.card(home, "state", "unhealthy")
	p.stays(refuge)
	require.NotContains(p.t, p.visitors(), home)

	p.click(home, "Start again")
	p.card(home, "process", "running")
	p.card(home, "state", "healthy")
	p.visited(home)
	p.reload()
	p.stays(refuge)
}

// everythingClicked compares with the buttons that the page has now, and with what they become when they are used.
func everythingClicked(p *page) {
	have, err := chromedp.Run(p.ctx, chromedp.Evaluate[[]string](`[...document.querySelectorAll('button')].map(button => button.innerText)`))
	require.NoError(p.t, err)
	require.GreaterOrEqual(p.t, len(have), 10)
	for _, button := range append(have, "Ready again", "Start again") {
		require.True(p.t, p.clicked[button], "nobody clicked %q", button)
	}
}

// TestOneSessionOverBoth has a session begin over https, where it gets a second cookie, and go on over http.
func TestOneSessionOverBoth(t *testing.T) {
	d := startDemo(t)
	browser := startBrowser(t)
	secure := open(t, browser, d.https)
	home := secure.home()
	plain := open(t, browser, d.http)
	plain.stays(home)
	plain.click("", "Forget the cookie")
	moved := plain.moves(home)
	plain.reload()
	plain.stays(moved)
	secure.reload()
	secure.stays(moved)
}

// TestPhone requires that nothing is wider than a narrow screen.
func TestPhone(t *testing.T) {
	d := startDemo(t)
	p := open(t, startBrowser(t), d.http)
	p.do(chromedp.EmulateViewport(320, 640))
	p.visitors()
	p.until(`document.documentElement.scrollWidth <= 320`)
}
