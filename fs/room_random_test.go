package fs

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/fs/internal/fused"
	"github.com/cardfs/cardfs/reader"
)

// "Bytes are given back in every path": operations come at random, in any order.
func TestRoomIsGivenBack(t *testing.T) {
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 9))
			r := new(room)
			card := &fakeCard{answer: 300}
			var mu sync.Mutex
			number := func(n int) int {
				mu.Lock()
				defer mu.Unlock()
				return rnd.IntN(n)
			}
			card.do = func(ctx context.Context, command, dst []byte) ([]byte, error) {
				time.Sleep(time.Duration(number(3)) * time.Millisecond)
				switch number(8) {
				case 0:
					return nil, reader.ErrTimeout
				case 1:
					return append(dst, 1, 2, 3), reader.ErrGone
				case 2:
					panic("somewhere below")
				case 3:
					return append(dst, make([]byte, number(70_000))...), nil
				case 4:
					return nil, nil
				}
				return append(dst, 0x90, 0), nil
			}
			var wg sync.WaitGroup
			for user := range uint32(3) {
				for range 4 {
					c := openIn(t, r, user, card, rdwr)
					wg.Go(func() {
						for range number(60) {
							switch number(9) {
							case 0:
								c.write("zz\n")
							case 1:
								c.write("00A4" + strings.Repeat(" ", number(9000)))
							case 2:
								c.write("0000\n")
							case 3:
								c.write(strings.Repeat("00A40000\n", number(80)))
							case 4:
								in, out := ioctlBuffers("00A40000", 8+number(100))
								c.Ioctl(bg, exchangeRequest(len(in)), 0, in, out)
							case 5:
								if number(5) == 0 {
									c.Ioctl(bg, fused.IoctlBinary, 0, nil, nil)
								}
							case 6:
								c.readAt(bg, 1+number(1000), int64(number(100)))
							default:
								ctx, cancel := context.WithTimeout(bg, time.Millisecond)
								c.readAt(ctx, 1+number(100_000), 0)
								cancel()
							}
							if n := c.share.used.Load(); n < 0 || n > userRoom+leftBehind {
								t.Errorf("%d bytes are in use", n)
							}
						}
						c.Release(bg)
					})
				}
			}
			wg.Wait()
			time.Sleep(time.Hour) // what was left behind is done
			wantEmpty(t, r)
		})
	}
}
