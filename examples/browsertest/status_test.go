package browsertest_test

import (
	"fmt"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/examples/browsertest"
)

// The status page of three pools: every button of every target does what it says there and in no
// other pool, links and the search do, it fits narrow screens, and a page of another origin cannot
// press a button.
func TestStatusPage(t *testing.T) {
	browsertest.Program(t)
	d := startDemo(t, "-tcp", "127.0.0.1:0=app-1,app-2,app-3", "-tcp", "127.0.0.1:0=app-2,app-3")
	browser := startBrowser(t)
	tab, cancel := chromedp.NewContext(browser)
	defer cancel()
	require.NoError(t, chromedp.Do(tab), "open a tab")
	p := &page{t: t, ctx: tab, clicked: map[string]bool{}}
	p.do(chromedp.EmulateViewport(360, 900), chromedp.Navigate(d.admin+"/"))

	until := func(format string, args ...any) { // a form's answer is a new document, which ends what looks at the old one
		t.Helper()
		expression := fmt.Sprintf(format, args...)
		require.Eventually(t, func() bool {
			so, err := chromedp.Run(tab, chromedp.Evaluate[bool](expression))
			return err == nil && so
		}, patience, glance, expression)
	}
	// The rows of the page in their order: pools, and targets in each.
	until(`document.readyState === 'complete' && document.querySelectorAll('.pools tbody tr').length === 3`)
	rows, err := chromedp.Run(tab, chromedp.Evaluate[[]string](`[...document.querySelectorAll('.targets tbody tr')].map(row => row.id)`))
	require.NoError(t, err)
	require.Len(t, rows, 8)
	until(`[...document.querySelectorAll('.targets tbody tr')].every(row => row.innerText.includes('healthy'))`)
	for _, width := range []int64{320, 360, 768, 1200} {
		p.do(chromedp.EmulateViewport(width, 900))
		until(`document.documentElement.scrollWidth <= %d`, width)
	}

	// press clicks a button of a row, as a person would, and waits until the row alone has come to
	// that state.
	press := func(id, action, state string) {
		t.Helper()
		p.do(chromedp.Click(fmt.Sprintf(`//*[@id='%s']//button[@value='%s'][not(@disabled)]`, id, action), chromedp.NodeVisible))
		until(`(() => {
			if (document.readyState !== 'complete' || !location.hash) return false;
			const admin = row => [...row.querySelectorAll('.badge')].map(b => b.innerText).filter(s => s !== 'healthy').join(' ');
			return [...document.querySelectorAll('.targets tbody tr')].every(row => admin(row) === (row.id === %q ? %q : ''));
		})()`, id, state)
		until(`document.querySelector('ol li').innerText.includes(' %s ') && document.querySelector('ol li').innerText.includes('127.0.0.1:')`, action)
	}
	for _, id := range rows {
		press(id, "down", "down")
		press(id, "ready", "")
		press(id, "drain", "draining")
		until(`document.getElementById(%q).innerText.includes('by 127.0.0.1:')`, id)
		until(`document.getElementById(%q).innerText.includes('Sessions move in')`, id)
		press(id, "ready", "")
		until(`!document.getElementById(%q).innerText.includes('Sessions move in')`, id) // at once, and not with the next answer
	}

	// One pool alone, by its link, then a search in it.
	p.do(chromedp.Click(`//a[normalize-space()='http']`, chromedp.NodeVisible))
	until(`document.readyState === 'complete' && document.querySelectorAll('.targets tbody tr').length === 3`)
	p.do(chromedp.SendKeys(chromedp.CSS("[name=q]"), "app-2"))
	_, err = chromedp.Run(tab, chromedp.Evaluate[bool](`document.querySelector('[name=sort]').value = 'name', true`))
	require.NoError(t, err)
	p.do(chromedp.Click(`//button[normalize-space()='Show']`, chromedp.NodeVisible))
	until(`location.search.includes('sort=name') && document.readyState === 'complete' && document.querySelectorAll('.targets tbody tr').length === 1`)
	p.do(chromedp.Click(`//nav//a[starts-with(normalize-space(), 'Trouble')]`, chromedp.NodeVisible))
	until(`document.body.innerText.includes('No targets here.')`)
	p.do(chromedp.Click(`//nav//a[normalize-space()='Refresh every 5 s']`, chromedp.NodeVisible))
	until(`document.querySelector('meta[http-equiv=refresh]')?.content === '5'`)

	// From the demo's own page, which is another origin than the status page.
	p.do(chromedp.Navigate(d.http + "/"))
	until(`(() => {
		if (location.origin !== %q || document.readyState !== 'complete') return false;
		if (!window.asked) {
			window.asked = true;
			fetch(%q, {method: 'POST', mode: 'no-cors', body: new URLSearchParams({pool: 'http', action: 'down', target: 'app-3'})})
				.finally(() => { window.answered = true });
		}
		return window.answered === true;
	})()`, d.http, d.admin+"/")
	p.do(chromedp.Navigate(d.admin + "/"))
	until(`document.getElementById('t-http/app-3')?.querySelector('button[value=down]').disabled === false`)
}
