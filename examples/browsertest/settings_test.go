package browsertest_test

import (
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/examples/browsertest"
)

// The page of the settings: every button does what it says, what is refused is said, and a page of
// another origin cannot press one.
func TestSettingsPage(t *testing.T) {
	browsertest.Program(t)
	d := startDemo(t)
	browser := startBrowser(t)
	visitor := open(t, browser, d.http)
	home := visitor.home()
	tab, cancel := chromedp.NewContext(browser)
	defer cancel()
	require.NoError(t, chromedp.Do(tab), "open a tab")
	p := &page{t: t, ctx: tab, clicked: map[string]bool{}}
	p.do(chromedp.EmulateViewport(360, 800), chromedp.Navigate(d.admin+"/settings"))

	until := func(expression string) { // a form's answer is a new document, which ends what looks at the old one
		t.Helper()
		require.Eventually(t, func() bool {
			so, err := chromedp.Run(tab, chromedp.Evaluate[bool](expression))
			return err == nil && so
		}, patience, glance, expression)
	}
	version := func(n string) {
		t.Helper()
		until(`document.readyState === 'complete' && document.querySelector('header').innerText.includes('-` + n + ` ')`)
	}
	enter := func(field, value string) {
		t.Helper()
		_, err := chromedp.Run(tab, chromedp.Evaluate[bool](`document.querySelector('[name="`+field+`"]').value = `+value+`, true`))
		require.NoError(t, err)
	}
	press := func(form string) {
		t.Helper()
		p.do(chromedp.Click(`//form[@id='`+form+`']//button`, chromedp.NodeVisible))
	}
	version("0")
	until(`document.documentElement.scrollWidth <= 360`)

	// The home of a session leaves, without grace: the session and its WebSocket move.
	enter("targets", `document.querySelector('[name=targets]').value.split('\n').filter(line => !line.startsWith('`+home+`=')).join('\n')`)
	enter("grace", `'0s'`)
	press("targets")
	version("1")
	refuge := visitor.moves(home)
	visitor.card(home, "state", "not a target any more")
	visitor.stays(refuge)

	enter("sticky", `'ip'`)
	press("sticky")
	until(`document.querySelector('.note')?.innerText.includes('the modes are')`)
	enter("sticky", `'app=SHOP'`)
	press("sticky")
	version("2")
	press("new-key")
	version("3")
	until(`document.getElementById('keys').innerText.includes('2 keys')`)
	for range 2 { // bound by the mode before, and then by this one
		visitor.reload()
		visitor.stays(refuge)
	}
	enter("keys", `'5e'.repeat(32)`)
	press("keys")
	version("4")
	until(`document.getElementById('keys').innerText.includes('One key') && !document.documentElement.outerHTML.includes('5e5e')`)

	// From the demo's own page, which is another origin.
	p.do(chromedp.Navigate(d.http + "/"))
	until(`(() => {
		if (location.origin !== '` + d.http + `' || document.readyState !== 'complete') return false;
		if (!window.asked) {
			window.asked = true;
			fetch('` + d.admin + `/settings', {method: 'POST', mode: 'no-cors', body: new URLSearchParams({new_key: 'yes'})})
				.finally(() => { window.answered = true });
		}
		return window.answered === true;
	})()`)
	p.do(chromedp.Navigate(d.admin + "/settings"))
	version("4")
}
