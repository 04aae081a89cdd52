// Lints OpenAPI documents by Redocly's recommended rules; prints what it complains of in each.
import { createRequire } from "node:module";

const [packages, ...documents] = process.argv.slice(2);
const { createConfig, lint } = createRequire(packages + "/")("@redocly/openapi-core");
const config = await createConfig({ extends: ["recommended"] });
const told = await Promise.all(documents.map((ref) => lint({ ref, config })));
console.log(JSON.stringify(told.map((problems) => problems.map((one) => one.ruleId))));
