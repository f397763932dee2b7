import Fastify = require('fastify')
import tokensPlugin from 'fastify-mmc-tokens'
import tokens = require('fastify-mmc-tokens')
import schemas = require('fastify-mmc-tokens/schemas')

const app = Fastify()
app.register(tokensPlugin, { postgres: 'postgres://localhost/mmc', secret: 'secret' })
app.register(tokens.default, { postgres: 'postgres://localhost/mmc', secret: 'secret' })
app.get('/hello', async request => schemas.isToken(request.applicationToken) && request.applicationToken.name)
