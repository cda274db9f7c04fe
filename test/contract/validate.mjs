// Parses an AsyncAPI document with AsyncAPI's own parser, and prints what it objects to.
import { fromFile, Parser } from "@asyncapi/parser";

const information = 2; // severities: 0 error, 1 warning
const { document, diagnostics } = await fromFile(new Parser(), process.argv[2]).parse();
const objections = diagnostics.filter((d) => d.severity < information);
for (const d of objections) {
  console.log(`${d.path.join(".")}: ${d.message}`);
}
if (objections.length > 0 || document === undefined) {
  process.exit(1);
}
console.log(`${document.operations().length} operations`);
