// node --experimental-wasm-jspi run.mjs PYODIDE CHECKOUT PACKAGES URL: checks.py, against the provider at URL
const [pyodide, checkout, packages, url] = process.argv.slice(2);
const { loadPyodide } = await import(`${pyodide}/pyodide.mjs`);
const python = await loadPyodide();
await python.useNodeSockFS();
python.mountNodeFS("/checkout", checkout);
python.mountNodeFS("/packages", packages);
python.globals.set("url", url);
const code = `
import sys
sys.dont_write_bytecode = True
sys.path[:0] = ["/checkout", "/packages"]
real, sys.platform = sys.platform, "linux"  # or urllib3 would put JavaScript's fetch in the place of sockets
import urllib3
sys.platform = real
from tests.pyodide import checks
checks.main(url)
`;
try {
    await python.runPythonAsync(code);
    process.exit(0); // a connection that is kept open would keep node
} catch (error) { // of which node would show pyodide's source as well, a line of a megabyte
    console.log(error.message);
    process.exit(1);
}
