package drivers

import (
	"log/slog"

	"github.com/cardfs/cardfs/drivers/acs"
	"github.com/cardfs/cardfs/drivers/cardman"
	"github.com/cardfs/cardfs/drivers/ccid"
	"github.com/cardfs/cardfs/drivers/cm4000"
	"github.com/cardfs/cardfs/drivers/cyberjack"
	"github.com/cardfs/cardfs/drivers/egate"
	"github.com/cardfs/cardfs/drivers/epass3k"
	"github.com/cardfs/cardfs/drivers/etoken"
	"github.com/cardfs/cardfs/drivers/eutron"
	"github.com/cardfs/cardfs/drivers/gempc"
	"github.com/cardfs/cardfs/drivers/ikey"
	"github.com/cardfs/cardfs/drivers/kaan"
	"github.com/cardfs/cardfs/drivers/remote"
	"github.com/cardfs/cardfs/drivers/replay"
	"github.com/cardfs/cardfs/drivers/rutoken"
	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/drivers/smartboard"
	"github.com/cardfs/cardfs/drivers/smph"
	"github.com/cardfs/cardfs/drivers/starkey"
	"github.com/cardfs/cardfs/drivers/towitoko"
	"github.com/cardfs/cardfs/drivers/vpcd"
	"github.com/cardfs/cardfs/drivers/wbeiuu"
	"github.com/cardfs/cardfs/reader"
)

// Env is what the program passes to drivers. The zero value is usable.
type Env struct {
	// Log receives messages of drivers beside their errors; nil: they are dropped.
	Log *slog.Logger
	// Quirks are a user's corrections for CCID readers, and settings of tokens; nil: none.
	Quirks *ccid.UserQuirks
}

// All is the list: a new driver is one line here.
func All(env Env) []reader.Driver {
	return []reader.Driver{
		acs.Driver{Log: env.Log},
		acs.ACR30{Log: env.Log},
		cardman.Driver{Log: env.Log},
		ccid.Driver{Log: env.Log, Quirks: env.Quirks},
		cm4000.Driver{Log: env.Log},
		cyberjack.Driver{},
		egate.Driver{},
		gempc.Driver{Log: env.Log},
		wbeiuu.Driver{},
		epass3k.Driver{},
		ikey.IKey3000,
		ikey.IKey2032,
		etoken.PRO,
		etoken.PRO64,
		starkey.Driver{Log: env.Log},
		eutron.Driver{},
		kaan.KAAN(env.Log),
		kaan.B1(env.Log),
		&remote.Driver{Log: env.Log},
		replay.Driver{},
		rutoken.Driver{Rewrite: func(vendor, product uint16) string { return env.Quirks.Value(vendor, product, "rewrite") }},
		&sim.Driver{Log: env.Log},
		smartboard.Driver{Log: env.Log},
		smph.Driver{Log: env.Log},
		towitoko.Driver{Log: env.Log},
		vpcd.Driver{Log: env.Log},
	}
}
