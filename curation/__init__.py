"""Raw video in; scored, chosen and losslessly cut clips out."""
