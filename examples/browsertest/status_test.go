package browsertest_test

import (
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/examples/browsertest"
)

// The registry's page: every button of a target does what it says, and a page of another origin cannot press one.
func TestStatusPage(t *testing.T) {
	browsertest.Program(t)
	d := startDemo(t)
	browser := startBrowser(t)
	tab, cancel := chromedp.NewContext(browser)
	defer cancel()
	require.NoError(t, chromedp.Do(tab), "open a tab")
	p := &page{t: t, ctx: tab, clicked: map[string]bool{}}
	p.do(chromedp.EmulateViewport(320, 900), chromedp.Navigate(d.admin+"/"))

	until := func(expression string) { // a form's answer is a new document, which ends what looks at the old one
		t.Helper()
		require.Eventually(t, func() bool {
			so, err := chromedp.Run(tab, chromedp.Evaluate[bool](expression))
			return err == nil && so
		}, patience, glance, expression)
	}
	row := func(id string) string { return `document.getElementById('t-` + id + `')` }
	shows := func(id, state string) {
		t.Helper()
		until(`!!` + row(id) + ` && ` + row(id) + `.textContent.includes('` + state + `')`)
	}
	enabled := func(id, action string) {
		t.Helper()
		until(`!!` + row(id) + ` && !` + row(id) + `.querySelector('button[value=` + action + `]').disabled`)
	}
	press := func(id, action string) {
		t.Helper()
		p.do(chromedp.Click(`//*[@id='t-`+id+`']//button[@value='`+action+`'][not(@disabled)]`, chromedp.NodeVisible))
	}
	shows("app-1", "healthy")
	until(`document.documentElement.scrollWidth <= 320`)
	enabled("app-1", "drain")
	press("app-1", "drain")
	shows("app-1", "draining")
	press("app-1", "ready")
	enabled("app-1", "drain")
	press("app-2", "down")
	enabled("app-2", "ready")
	press("app-2", "ready")
	enabled("app-2", "down")

	// From the demo's own page, which is another origin than the status page.
	p.do(chromedp.Navigate(d.http + "/"))
	until(`(() => {
		if (location.origin !== '` + d.http + `' || document.readyState !== 'complete') return false;
		if (!window.asked) {
			window.asked = true;
			fetch('` + d.admin + `/', {method: 'POST', mode: 'no-cors', body: new URLSearchParams({action: 'down', target: 'app-3'})})
				.finally(() => { window.answered = true });
		}
		return window.answered === true;
	})()`)
	p.do(chromedp.Navigate(d.admin + "/"))
	shows("app-3", "healthy")
	enabled("app-3", "down")
}
