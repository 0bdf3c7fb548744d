"""The flat-network check against real packets: random VPCs, built in the fabric, judged and then probed."""
