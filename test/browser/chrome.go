package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// chrome is a running Chromium with a profile of its own.
type chrome struct {
	ctx  context.Context
	stop func()
}

// startChrome starts the installed Chromium, which finds domains where the rules say.
func startChrome(ctx context.Context, rules string) (*chrome, error) {
	flags := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.DisableGPU, chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("hide-scrollbars", true), chromedp.Flag("host-resolver-rules", rules), chromedp.Flag("ignore-certificate-errors", true),
		chromedp.Flag("disable-back-forward-cache", true)) // WeChat's browser has none
	if os.Geteuid() == 0 {
		flags = append(flags, chromedp.NoSandbox) // Chromium does not run as root with one
	}
	allocated, stopAllocator := chromedp.NewExecAllocator(ctx, flags...)
	browser, stopBrowser := chromedp.NewContext(allocated)
	stop := func() {
		stopBrowser()
		stopAllocator()
	}
	if err := chromedp.Do(browser); err != nil {
		stop()
		return nil, fmt.Errorf("start chromium, which .ci/run browser installs: %w", err)
	}
	return &chrome{browser, stop}, nil
}

// look is how a tab shows the page.
type look struct {
	width, height int64
	dark          bool
	language      string // of the browser
	agent         string // that the browser says it is; default: the truth
	withoutScript bool
	scale         float64 // default: 1
}

// tab is an open tab.
type tab struct {
	ctx  context.Context
	stop func()

	mu       sync.Mutex
	problems []string // what the browser says against the page
}

// open opens a tab.
func (c *chrome) open(l look) (*tab, error) {
	ctx, stop := chromedp.NewContext(c.ctx, chromedp.WithNewBrowserContext())
	t := &tab{ctx: ctx, stop: stop}
	if err := t.prepare(l); err != nil {
		stop()
		return nil, fmt.Errorf("open a tab: %w", err)
	}
	return t, nil
}

func (t *tab) prepare(l look) error {
	err := chromedp.Listen(t.ctx, func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			t.note("exception: " + e.ExceptionDetails.Text)
		case *runtime.EventConsoleAPICalled:
			t.note("console." + string(e.Type))
		case *log.EventEntryAdded: // violations of the policy are among them
			t.note(fmt.Sprintf("%s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL))
		}
	})
	if err != nil {
		return err
	}
	scheme := "light"
	if l.dark {
		scheme = "dark"
	}
	if l.agent != "" {
		err := t.do(command(emulation.SetUserAgentOverride, emulation.SetUserAgentOverrideParams{UserAgent: l.agent, AcceptLanguage: cmp.Or(l.language, "en")}))
		if err != nil {
			return err
		}
	}
	return t.do(
		command(log.Enable, cdp.Empty{}),
		command(network.Enable, network.EnableParams{}),
		command(network.SetExtraHTTPHeaders, network.SetExtraHTTPHeadersParams{
			Headers: network.Headers{"Accept-Language": cmp.Or(l.language, "en")},
		}),
		command(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
			Width: l.width, Height: l.height, DeviceScaleFactor: cmp.Or(l.scale, 1), Mobile: l.width < 500,
		}),
		command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		}),
		command(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: l.withoutScript}),
	)
}

// command is an action that sends a command of the protocol.
func command[P, R any](c cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, params)
		return err
	})
}

func (t *tab) note(problem string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.problems = append(t.problems, problem)
}

// found returns what the browser said against the page, and forgets it.
func (t *tab) found() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	found := t.problems
	t.problems = nil
	return found
}

// do does something in the tab.
func (t *tab) do(actions ...chromedp.Action[chromedp.Void]) error {
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	return chromedp.Do(ctx, actions...)
}

// get runs an action in the tab and returns its value.
func get[T any](t *tab, action chromedp.Action[T]) (T, error) {
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, action)
}

// ask evaluates an expression in the tab.
func ask[T any](t *tab, expression string) (T, error) {
	value, err := get(t, chromedp.Evaluate[T](expression))
	if err != nil {
		err = fmt.Errorf("%s: %w", expression, err)
	}
	return value, err
}

// await waits until an expression is true in the tab.
func (t *tab) await(expression string) error {
	return eventually(t.ctx, func() error {
		value, err := ask[bool](t, expression)
		if err == nil && !value {
			err = fmt.Errorf("not true: %s", expression)
		}
		return err
	})
}
