// Command browser looks at the status page with a real Chromium. Its tests use the page as people do,
// beside a real service. The command itself makes the pictures of the page:
//
//	go -C test/browser test .
//	go -C test/browser run . -out ../../docs/pictures
package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/chromedp/chromedp"

	"preauth"
	"preauth/internal/mysqlserver"
	"preauth/wechat/wechattest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	out := flag.String("out", ".", "directory for the pictures")
	flag.Parse()
	if err := pictures(ctx, *out); err != nil {
		fmt.Fprintln(os.Stderr, "browser:", err)
		os.Exit(1)
	}
}

// pictures makes the pictures.
func pictures(ctx context.Context, dir string) (err error) {
	mysql, err := mysqlserver.Start(ctx, mysqlserver.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mysql.Close()) }()
	s, err := start(ctx, options{mysql: mysql, name: "pictures", replicas: 2, log: slog.New(slog.DiscardHandler)})
	if s != nil {
		defer func() { err = errors.Join(err, s.close()) }()
	}
	if err != nil {
		return err
	}
	if err := s.populate(ctx); err != nil {
		return err
	}
	outside := startInternet()
	defer outside.server.Close()
	chrome, err := startChrome(ctx, outside.rules())
	if err != nil {
		return err
	}
	defer chrome.stop()
	live := `document.querySelector("#live.on") !== null`
	whole := live + ` && document.querySelectorAll("#replicas .replica").length === 2`
	all, err := s.entryPictures(outside, standing)
	if err != nil {
		return err
	}
	all = append([]picture{
		{"page-light", s.first, look{width: 1280, height: 1000}, whole},
		{"page-dark", s.first, look{width: 1280, height: 1000, dark: true}, whole},
		{"page-chinese", s.first, look{width: 1280, height: 1000, language: "zh-CN"}, whole},
		{"page-phone", s.first, look{width: 360, height: 780, scale: 2}, whole},
		{"page-component", s.first + "/components/" + blocked, look{width: 1280, height: 900}, live},
	}, all...)
	for _, picture := range all {
		if err := picture.take(chrome, dir); err != nil {
			return fmt.Errorf("picture %s: %w", picture.name, err)
		}
	}
	return nil
}

// picture is a picture of a page, once an expression is true there.
type picture struct {
	name, url string
	look      look
	ready     string
}

// take takes the picture.
func (p picture) take(chrome *chrome, dir string) error {
	tab, err := chrome.open(p.look)
	if err != nil {
		return err
	}
	defer tab.stop()
	if err := tab.do(chromedp.Navigate(p.url)); err != nil {
		return err
	}
	if err := tab.await(p.ready); err != nil {
		return err
	}
	screen, err := get(tab, chromedp.CaptureScreenshot())
	if err != nil {
		return err
	}
	if screen, err = small(screen); err != nil {
		return err
	}
	file := filepath.Join(dir, p.name+".png")
	if err := os.WriteFile(file, screen, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(os.Stdout, "%s: %d bytes\n", file, len(screen))
	return nil
}

// small encodes a picture with a palette of the 256 colors that it has most of. Screens have few.
func small(encoded []byte) ([]byte, error) {
	picture, err := png.Decode(bytes.NewReader(encoded))
	if err != nil {
		return nil, err
	}
	bounds, count := picture.Bounds(), map[color.Color]int{}
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			count[picture.At(x, y)]++
		}
	}
	colors := slices.SortedFunc(maps.Keys(count), func(a, b color.Color) int { return cmp.Compare(count[b], count[a]) })
	paletted := image.NewPaletted(bounds, colors[:min(len(colors), 256)])
	draw.Draw(paletted, bounds, picture, bounds.Min, draw.Src)
	var out bytes.Buffer
	err = (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, paletted)
	return out.Bytes(), err
}

// The components of the pictures that fare badly.
const (
	blocked   = "wx3f9a41c07d2be658"
	exhausted = "wx81d4e0b6572fac39"
	silent    = "wx5c27b9f3e8a1064d"
	standing  = "wx0b6e52a9d1c8f734" // which fares well
)

// populate makes components in several states.
func (s *system) populate(ctx context.Context) error {
	all := []string{
		blocked, exhausted, silent, standing, "wx1a2c9e4f07b3d586", "wx2d80f6a3c5e91b47", "wx4e7b1d92f0a6c385", "wx60c5d3e8b9f2a174",
		"wx72e9a0f4c1d6b853", "wx93b7c2e5d08f1a46", "wxa4f1e6d7c2b90835", "wxc8d29f5e3a07b164", "wxe05a7b3c9d14f268",
	}
	for i, appid := range all {
		life := preauth.DefaultTokenLife - time.Duration(i)*7*time.Minute
		if appid == silent {
			life = 4 * time.Second
		}
		s.wechat.SetToken(appid, preauth.NewSecret("first-"+appid)) // by which it is known whose quota is asked for
		s.wechat.SetDailyQuota(appid, 10_000)
		if err := s.announce(ctx, appid, "first-"+appid, life); err != nil {
			return err
		}
		if err := s.await(ctx, appid, preauth.StateValid); err != nil && appid != silent {
			return err
		}
	}
	s.wechat.SetDailyQuota(exhausted, 1)
	for range 3 {
		s.wechat.Next(blocked, wechattest.Error(61004, "access clientip is not registered requestIP: 203.0.113.9"))
	}
	for _, appid := range []string{blocked, exhausted} {
		if err := s.announce(ctx, appid, "second-"+appid, preauth.DefaultTokenLife); err != nil {
			return err
		}
		if err := s.await(ctx, appid, preauth.StateFailing); err != nil {
			return err
		}
	}
	if err := s.await(ctx, silent, preauth.StateNoToken); err != nil {
		return err
	}
	claim, err := s.client.Claim(ctx, preauth.ClaimRequest{AppID: all[4], ClaimID: "visitor-1"})
	if err != nil {
		return err
	}
	return s.client.AnnounceAuthorization(ctx, preauth.AuthorizationEvent{AppID: all[4], PreAuthCode: claim.PreAuthCode, AuthorizerAppID: "wxvisitor"})
}
