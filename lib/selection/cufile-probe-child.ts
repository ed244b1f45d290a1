/** A process of its own for cuFile's driver, which can hang when it is opened: prints what the probe says, as JSON. */
import { loadAddon } from '../transfer/load-addon.js'

process.stdout.write(JSON.stringify(loadAddon().cufile.probe()))
